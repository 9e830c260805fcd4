//! The principal of a token, from its claims: `{trust_domain}/ns/{kubernetes.io.namespace}/sa/{...}`.
//!
//! Two tokens with different values never have the same principal: a value cannot contain what separates it from the
//! text around it.

use serde_json::Value;

use super::claim::{ClaimPath, Claims, Found};
use super::problem::TokenProblem;
use crate::identity::distinguished_name::DistinguishedName;
use crate::identity::principal::Principal;
use crate::identity::spiffe::SpiffeId;

/// The principal of a Kubernetes service account, as a mesh names it.
pub const KUBERNETES_PRINCIPAL: &str =
    "{trust_domain}/ns/{kubernetes.io.namespace}/sa/{kubernetes.io.serviceaccount.name}";

/// The longest template in bytes.
const TEMPLATE_BYTES_MAX: usize = 1024;

/// The longest value of a claim in a principal, in bytes.
const VALUE_BYTES_MAX: usize = 512;

/// How principals are made from claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalTemplate {
    form: Form,
    parts: Vec<Part>,
    /// Whether it is [`KUBERNETES_PRINCIPAL`], which the operator did not set.
    is_default: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `{trust_domain}/...`: a SPIFFE ID. A value is one segment, or a part of one.
    Spiffe,
    /// `CN={email},O=Acme`: a subject. A value is escaped as in a certificate's subject.
    Subject,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Claim(ClaimPath),
}

impl PrincipalTemplate {
    /// The template of Kubernetes, for an issuer without `principal`.
    pub fn kubernetes(trust_domain: Option<&str>) -> Result<Self, String> {
        Self::parse(KUBERNETES_PRINCIPAL, trust_domain).map(|template| Self { is_default: true, ..template })
    }

    /// Reads a template. `trust_domain` is the one of the issuer.
    ///
    /// The error continues a sentence that begins with the key.
    pub fn parse(text: &str, trust_domain: Option<&str>) -> Result<Self, String> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(format!("has more than {TEMPLATE_BYTES_MAX} bytes"));
        }
        let mut parts = parts(text)?;
        if let Some(Part::Claim(path)) = parts.first()
            && path.as_str() == "trust_domain"
        {
            let domain = trust_domain.ok_or("has {trust_domain}, and there is none; set trust_domain in this table")?;
            *parts.first_mut().ok_or("is empty")? = Part::Text(domain.to_owned());
        }
        if !parts.iter().any(|part| matches!(part, Part::Claim(_))) {
            return Err("has no claim in braces, as in {sub}: all tokens would be the same principal".to_owned());
        }
        let form = form(&parts, trust_domain)?;
        one_claim_between(&parts, if form == Form::Spiffe { '/' } else { ',' })?;
        Ok(Self { form, parts, is_default: false })
    }

    /// Whether the issuer has no `principal`: a SPIFFE ID in `sub` is the principal then.
    pub(super) fn is_default(&self) -> bool {
        self.is_default
    }

    /// The principal of a token with these claims.
    pub(super) fn fill(&self, claims: &Claims) -> Result<Principal, TokenProblem> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Claim(path) => text.push_str(&self.value(path, claims)?),
            }
        }
        match self.form {
            Form::Subject => Ok(Principal::Name(text)),
            Form::Spiffe => match SpiffeId::from_principal(&text) {
                Ok(id) => Ok(Principal::Spiffe(id)),
                Err(cause) => {
                    Err(TokenProblem::NoPrincipal { claim: "principal".to_owned(), cause: cause.to_string() })
                }
            },
        }
    }

    fn value(&self, path: &ClaimPath, claims: &Claims) -> Result<String, TokenProblem> {
        let wrong = |cause: String| Err(TokenProblem::NoPrincipal { claim: path.to_string(), cause });
        let value = match path.find(claims) {
            Found::Value(Value::String(text)) => text.clone(),
            Found::Value(Value::Number(number)) if !number.is_f64() => number.to_string(),
            Found::Value(_) => return wrong("it is neither a string nor an integer".to_owned()),
            Found::Nothing => return Err(TokenProblem::MissingClaim { claim: path.to_string() }),
            Found::Several => return wrong("several claims of the token have this path".to_owned()),
        };
        if value.is_empty() || value.len() > VALUE_BYTES_MAX {
            return wrong(format!("it is empty or has more than {VALUE_BYTES_MAX} bytes"));
        }
        match self.form {
            Form::Spiffe => match value.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-' | '_')) {
                Some(odd) => wrong(format!(
                    "it contains \"{}\", and a SPIFFE ID allows only letters, digits, \".\", \"-\" and \"_\"",
                    odd.escape_default()
                )),
                None => Ok(value),
            },
            Form::Subject if value.chars().all(|c| matches!(c, ' '..='~')) => {
                let name = DistinguishedName::text_of_common_name(&value);
                Ok(name.strip_prefix("CN=").unwrap_or(&name).to_owned())
            }
            Form::Subject => wrong("it contains a character other than printable ASCII".to_owned()),
        }
    }
}

/// Splits at braces.
fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (path, behind) = after.split_once('}').ok_or("has a { without its }")?;
        push_text(&mut parts, before)?;
        let path = ClaimPath::parse(path).map_err(|sentence| format!("has {{{path}}}, which {sentence}"))?;
        parts.push(Part::Claim(path));
        rest = behind;
    }
    push_text(&mut parts, rest)?;
    Ok(parts)
}

fn push_text(parts: &mut Vec<Part>, text: &str) -> Result<(), String> {
    if text.contains(|c: char| c == '}' || !matches!(c, ' '..='~')) {
        return Err("may contain only printable ASCII, and braces only around claims".to_owned());
    }
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
    Ok(())
}

fn form(parts: &[Part], trust_domain: Option<&str>) -> Result<Form, String> {
    let start: String = parts
        .iter()
        .map_while(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Claim(_) => None,
        })
        .collect();
    let is_of_domain = |domain: &str| start.strip_prefix(domain).is_some_and(|rest| rest.starts_with('/'));
    if trust_domain.is_some_and(is_of_domain) {
        return Ok(Form::Spiffe);
    }
    match start.split_once('=') {
        Some((key, _)) if !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric()) => Ok(Form::Subject),
        _ => Err("must begin with {trust_domain}/ for a SPIFFE ID, or with an attribute such as CN= for a subject"
            .to_owned()),
    }
}

/// Two claims without a separator could be divided in several ways.
fn one_claim_between(parts: &[Part], separator: char) -> Result<(), String> {
    let mut has_claim = false;
    for part in parts {
        match part {
            Part::Text(text) => has_claim &= !text.contains(separator),
            Part::Claim(path) if has_claim => {
                return Err(format!("has {{{path}}} behind another claim without a \"{separator}\" between them"));
            }
            Part::Claim(_) => has_claim = true,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DOMAIN: Option<&str> = Some("cluster.local");

    fn fill(template: &str, claims: Value) -> String {
        let Value::Object(claims) = claims else { unreachable!() };
        match PrincipalTemplate::parse(template, DOMAIN).unwrap().fill(&claims) {
            Ok(Principal::Spiffe(id)) => id.to_string(),
            Ok(Principal::Name(name)) => format!("name {name}"),
            Err(problem) => problem.to_string(),
        }
    }

    #[test]
    fn the_principal_is_made_from_claims() {
        let kubernetes = json!({ "kubernetes.io": { "namespace": "shop", "serviceaccount": { "name": "orders" } } });
        assert_eq!(fill(KUBERNETES_PRINCIPAL, kubernetes), "cluster.local/ns/shop/sa/orders");
        for (template, claims, expected) in [
            ("cluster.local/azure/{oid}", json!({ "oid": "a-1" }), "cluster.local/azure/a-1"),
            ("{trust_domain}/gh/{repository_id}", json!({ "repository_id": 17 }), "cluster.local/gh/17"),
            ("CN={email},O=Acme", json!({ "email": "a@b.example" }), "name CN=a@b.example,O=Acme"),
            ("CN={email}", json!({ "email": "a,O=Root" }), "name CN=a\\,O=Root"),
            ("CN={repository}", json!({ "repository": "acme/shop" }), "name CN=acme/shop"),
        ] {
            assert_eq!(fill(template, claims), expected, "{template}");
        }
    }

    #[test]
    fn a_value_cannot_change_the_text_around_it() {
        for odd in ["a/sa/admin", "..", ".", "a b", "a\nb", "a%2fb", "é", "", "a\\b", &"x".repeat(600)] {
            let told = fill("{trust_domain}/ns/{ns}", json!({ "ns": odd }));
            assert!(told.starts_with("the principal cannot be made"), "{odd}: {told}");
        }
        for odd in ["a\nb", "é", "", "a\0"] {
            let told = fill("CN={ns}", json!({ "ns": odd }));
            assert!(told.starts_with("the principal cannot be made"), "{odd}: {told}");
        }
        for other in [json!(true), json!(null), json!(["a"]), json!({ "a": 1 }), json!(1.5)] {
            assert!(fill("{trust_domain}/{ns}", json!({ "ns": other })).contains("neither a string nor an integer"));
        }
        assert_eq!(fill("{trust_domain}/{ns}", json!({})), "the claim ns is missing");
        assert!(fill("{trust_domain}/{a.b}", json!({ "a": { "b": "x" }, "a.b": "y" })).contains("several claims"));
    }

    #[test]
    fn a_template_has_one_of_two_forms_and_separates_its_claims() {
        for (template, expected) in [
            ("{sub}", "must begin with"),
            ("{sub}/x", "must begin with"),
            ("other.local/{sub}", "must begin with"),
            ("cluster.local{sub}", "must begin with"),
            ("={sub}", "must begin with"),
            ("{trust_domain}/x", "no claim"),
            ("{trust_domain}/{a}{b}", "without a \"/\""),
            ("{trust_domain}/{a}-{b}", "without a \"/\""),
            ("CN={a} {b}", "without a \",\""),
            ("{trust_domain}/{a", "without its }"),
            ("{trust_domain}/{a}}", "braces only"),
            ("{trust_domain}/{}", "path of a claim"),
            ("", "no claim"),
        ] {
            let told = PrincipalTemplate::parse(template, DOMAIN).unwrap_err();
            assert!(told.contains(expected), "{template}: {told}");
        }
        assert!(PrincipalTemplate::parse("{trust_domain}/{a}", None).unwrap_err().contains("set trust_domain"));
        assert!(PrincipalTemplate::parse("CN={a}", None).is_ok());
    }
}
