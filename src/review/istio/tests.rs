//! Tests of the import: the TOML for each document, that it is valid configuration, and its decisions.

use std::fmt::Write;
use std::path::Path;

use crate::config::Config;
use crate::review::Decision::{self, Allow, Deny, WouldDeny};
use crate::review::{AssumedCaller, PolicyReview, RequestedCommand};

use super::*;

/// A minimal configuration without a policy.
pub(super) const REST: &str = r#"
[upstream.orders]
address = "mongo.shop:27017"
[upstream.orders.tls]
certificate_file = "client.pem"
ca_file = "ca.pem"
[listener.orders]
address = "127.0.0.1:27017"
upstream = "orders"
mode = "permissive"
tls = { certificate_file = "server.pem", ca_file = "ca.pem" }
"#;

const CART: &str = "cluster.local/ns/shop/sa/cart";
const SLEEP: &str = "cluster.local/ns/full/sa/sleep";

fn imported(yaml: &str) -> String {
    import(yaml, 27017, "mesh.yaml").unwrap_or_else(|error| panic!("{yaml}: {error}")).text
}

/// The text without comments, empty lines and the first two lines.
fn rules(yaml: &str) -> String {
    let text = imported(yaml);
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.skip(2).collect::<Vec<_>>().join("\n")
}

fn config(yaml: &str) -> Config {
    let text = format!("{REST}\n{}", imported(yaml));
    Config::parse(&text, Path::new("config.toml"), []).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A policy with this action and these rules in YAML's flow style.
fn policy(action: &str, rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\n\
         spec: {{action: {action}, rules: {rules}}}\n---\n"
    )
}

#[test]
fn documents_become_rules() {
    let check = |yaml: &str, expected: &str| assert_eq!(rules(yaml), expected, "{yaml}");
    check(
        &policy("ALLOW", "[{from: [{source: {principals: [a, 'b*'], notNamespaces: [c]}}]}]"),
        "[[policy.rule]]\nname = \"shop.p\"\naction = \"allow\"\nfrom = [\n  \
         { principals = [\"a\", \"b*\"], not_namespaces = [\"c\"] },\n]",
    );
    check(
        &policy("DENY", "[{from: [{source: {ipBlocks: [10.1.2.3/8], notIpBlocks: ['10.1.2.3', 'fd00::1']}}]}]"),
        "[[policy.rule]]\nname = \"shop.p\"\naction = \"deny\"\nfrom = [\n  \
         { sources = [\"10.0.0.0/8\"], not_sources = [\"10.1.2.3/32\", \"fd00::1/128\"] },\n]",
    );
    check(
        &policy("AUDIT", "[{}, {from: [{source: {serviceAccounts: [cart, full/sleep]}}]}]"),
        "[[policy.rule]]\nname = \"shop.p.1\"\naction = \"audit\"\n\
         [[policy.rule]]\nname = \"shop.p.2\"\naction = \"audit\"\nfrom = [\n  \
         { principals = [\"*/ns/shop/sa/cart\", \"*/ns/full/sa/sleep\"] },\n]",
    );
    // A policy that cannot match becomes nothing, except an allow policy, which means default deny.
    check(&policy("DENY", "[]").replace("rules: []", "rules: null"), "");
    check(&policy("AUDIT", "[{to: [{operation: {ports: ['8080']}}]}]"), "");
    let no_caller = "[[policy.rule]]\nname = \"shop.p\"\naction = \"allow\"\nfrom = []";
    check(&policy("ALLOW", "[{to: [{operation: {ports: ['8080']}}]}]"), no_caller);
    check(&policy("ALLOW", "[{to: [{operation: {notPorts: ['27017']}}]}]"), no_caller);
    check(&policy("ALLOW", "[{when: [{key: destination.port, values: ['1']}]}]"), no_caller);
    // The fields of a rule for other ports need no equivalent.
    let of_metrics = "{to: [{operation: {ports: ['9216'], methods: [GET], paths: [/metrics]}}], from: [{source: \
                      {requestPrincipals: ['*']}}], when: [{key: 'request.headers[x]', values: [a]}]}";
    check(&policy("ALLOW", &format!("[{of_metrics}]")), no_caller);
    check(&policy("ALLOW", "null"), no_caller);
    check(&policy("ALLOW", "null").replace("action: ALLOW, rules: null", ""), no_caller);
    let any_caller = "[[policy.rule]]\nname = \"shop.p\"\naction = \"allow\"";
    check(&policy("ALLOW", "[{}]"), any_caller);
    check(
        &policy("ALLOW", "[{to: [{operation: {ports: ['8080']}}, {operation: {ports: ['27017', '1']}}]}]"),
        any_caller,
    );
    check(&policy("ALLOW", "[{to: [{operation: {notPorts: ['8080']}}]}]"), any_caller);
    check(
        &policy("ALLOW", "[{to: [{operation: {ports: ['80'], paths: [/]}}, {operation: {ports: ['27017']}}]}]"),
        any_caller,
    );
    check(&policy("ALLOW", "[{when: [{key: destination.port, values: ['27017'], notValues: ['1']}]}]"), any_caller);
    // Equal names are made unique.
    let twice = policy("DENY", "[{}]").repeat(2);
    assert!(rules(&twice).contains("name = \"shop.p\"\n") && rules(&twice).contains("name = \"shop.p-2\""), "{twice}");
    let dry = policy("DENY", "[{}]").replace("name: p,", "name: p, annotations: {istio.io/dry-run: 'true'},");
    check(&dry, "[[policy.rule]]\nname = \"shop.p\"\naction = \"deny\"\ndry_run = true");
}

#[test]
fn from_and_when_must_both_match() {
    let check = |from: &str, when: &str, expected: &str| {
        let yaml = policy("DENY", &format!("[{{from: {from}, when: {when}}}]"));
        let text = rules(&yaml).replace("[[policy.rule]]\nname = \"shop.p\"\naction = \"deny\"", "");
        assert_eq!(text.trim(), expected, "{yaml}");
    };
    check(
        "null",
        "[{key: source.principal, values: [a]}, {key: source.ip, notValues: [10.0.0.0/8]}]",
        "from = [\n  { principals = [\"a\"], not_sources = [\"10.0.0.0/8\"] },\n]",
    );
    check(
        "[{source: {principals: ['cluster.local/ns/shop/*']}}, {source: {namespaces: [full]}}]",
        "[{key: source.principal, values: ['cluster.local/*'], notValues: [x]}]",
        "from = [\n  { principals = [\"cluster.local/ns/shop/*\"], not_principals = [\"x\"] },\n  \
         { principals = [\"cluster.local/*\"], not_principals = [\"x\"], namespaces = [\"full\"] },\n]",
    );
    check(
        "[{source: {ipBlocks: [10.0.0.0/8]}}]",
        "[{key: source.ip, values: [10.1.0.0/16, 172.16.0.0/12]}]",
        "from = [\n  { sources = [\"10.1.0.0/16\"] },\n]",
    );
    check("[{source: {principals: [a]}}]", "[{key: source.principal, values: [b]}]", "");
}

#[test]
fn decisions_are_those_of_the_mesh() {
    let allow_cart = policy("ALLOW", &format!("[{{from: [{{source: {{principals: ['{CART}']}}}}]}}]"));
    let deny_sleep = policy("DENY", &format!("[{{from: [{{source: {{principals: ['{SLEEP}']}}}}]}}]"));
    let deny_ip = policy("DENY", "[{from: [{source: {ipBlocks: [10.1.0.0/16], notIpBlocks: [10.1.3.0/24]}}]}]");
    let not_shop = policy("DENY", "[{from: [{source: {notNamespaces: [shop]}}]}]");
    let authenticated = policy("ALLOW", "[{from: [{source: {principals: ['*']}}]}]");
    let allow_nothing = policy("ALLOW", "null");
    let allow_all = policy("ALLOW", "[{}]");
    let deny_all = policy("DENY", "[{}]");
    let deny_nothing = policy("DENY", "null");
    let for_others = policy("ALLOW", "[{to: [{operation: {ports: ['8080']}}]}]");
    let dry_deny = deny_all.replace("name: p,", "name: p, annotations: {istio.io/dry-run: 'true'},");
    let audit = policy("AUDIT", "[{}]");

    let check = |documents: &[&str], caller: (Option<&str>, &str), expected: Decision| {
        let yaml = documents.concat();
        let config = config(&yaml);
        let caller = AssumedCaller::new(caller.0, Some(caller.1.parse().unwrap()), None);
        let text = |text: &str| Some(text.to_owned());
        let requested =
            RequestedCommand { command: text("find"), database: text("shop"), collection: text("orders"), body: None };
        let explanation =
            PolicyReview::new(&config, std::time::SystemTime::now()).unwrap().explain(&caller, &requested).unwrap();
        assert_eq!(explanation.decision, expected, "{caller:?} {yaml}\n{explanation}");
    };
    let (cart, sleep, unauthenticated) = ((Some(CART), "10.9.9.9"), (Some(SLEEP), "10.9.9.9"), (None, "10.9.9.9"));
    check(&[&allow_cart], cart, Allow);
    check(&[&allow_cart], sleep, Deny);
    check(&[&allow_cart], unauthenticated, Deny);
    check(&[&deny_sleep], sleep, Deny);
    check(&[&deny_sleep], cart, Allow);
    check(&[&deny_sleep], unauthenticated, Allow);
    check(&[&allow_all, &deny_sleep], sleep, Deny);
    check(&[&allow_all, &deny_sleep], unauthenticated, Allow);
    check(&[&deny_ip], (Some(CART), "10.1.2.3"), Deny);
    check(&[&deny_ip], (Some(CART), "10.1.3.3"), Allow);
    check(&[&deny_ip], (Some(CART), "10.2.2.3"), Allow);
    check(&[&not_shop], cart, Allow);
    check(&[&not_shop], sleep, Deny);
    check(&[&not_shop], unauthenticated, Deny);
    check(&[&authenticated], sleep, Allow);
    check(&[&authenticated], unauthenticated, Deny);
    check(&[&allow_nothing], cart, Deny);
    check(&[&allow_nothing, &allow_cart], cart, Allow);
    check(&[&allow_nothing, &allow_cart], sleep, Deny);
    check(&[&allow_all], unauthenticated, Allow);
    check(&[&deny_all, &allow_all], cart, Deny);
    check(&[&deny_nothing, &deny_sleep], cart, Allow);
    check(&[&for_others], cart, Deny);
    check(&[&for_others, &allow_cart], cart, Allow);
    check(&[&dry_deny, &deny_sleep], cart, WouldDeny);
    check(&[&dry_deny, &deny_sleep], sleep, Deny);
    check(&[&audit, &deny_sleep], cart, Allow);
    check(&[&audit, &deny_sleep], sleep, Deny);
}

#[test]
fn every_field_that_cannot_apply_to_mongodb_is_a_problem() {
    let check = |yaml: &str, expected: &[&str]| {
        let Err(ImportError::Refused(problems)) = import(yaml, 27017, "mesh.yaml") else {
            panic!("{yaml}: was imported, or is not YAML")
        };
        let fits = problems.len() == expected.len() && problems.iter().zip(expected).all(|(p, e)| p.contains(e));
        assert!(fits, "{yaml}: {problems:#?}");
    };
    let one = |rule: &str| policy("DENY", &format!("[{rule}]"));
    check(&policy("CUSTOM", "[{}]"), &["AuthorizationPolicy p in namespace shop: spec.action is CUSTOM"]);
    check(&policy("Deny", "[{}]"), &["spec.action must be ALLOW, DENY or AUDIT"]);
    for field in ["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"] {
        let path = format!("spec.rules[1].to[1].operation.{field} applies to HTTP requests");
        check(&one(&format!("{{to: [{{operation: {{ports: ['27017'], {field}: ['*']}}}}]}}")), &[&path]);
    }
    for field in ["requestPrincipals", "notRequestPrincipals"] {
        let path = format!("spec.rules[1].from[1].source.{field} applies to tokens");
        check(&one(&format!("{{from: [{{source: {{{field}: ['*']}}}}]}}")), &[&path]);
    }
    for key in ["request.headers[x]", "request.auth.claims[iss]", "destination.ip", "connection.sni", "experimental.x"]
    {
        let path = format!("spec.rules[1].when[1].key is {key:?}, which ");
        check(&one(&format!("{{when: [{{key: '{key}', values: [a]}}]}}")), &[&path]);
    }
    check(&one("{when: [{key: source.principal}]}"), &["spec.rules[1].when[1] has neither values nor notValues"]);
    check(&one("{frm: []}"), &["spec.rules[1].frm is unknown; the known keys are from, to, when"]);
    check(&one("{from: []}"), &["spec.rules[1].from is an empty list"]);
    check(&one("{from: [{}]}"), &["spec.rules[1].from[1].source is empty"]);
    check(&one("{to: [{operation: {}}]}"), &["spec.rules[1].to[1].operation is empty"]);
    check(&one("{from: [{source: {principals: []}}]}"), &["source.principals is an empty list"]);
    check(&one("{from: [{source: {principals: ['']}}]}"), &["source.principals[1] is empty"]);
    check(&one("{from: [{source: {principals: ['a*b']}}]}"), &["source.principals has a \"*\" that is neither"]);
    check(&one("{from: [{source: {principals: ['spiffe://a/b']}}]}"), &["begins with spiffe:"]);
    check(&one("{from: [{source: {ipBlocks: ['10.0.0.0/33']}}]}"), &["\"10.0.0.0/33\", which is not an IP address"]);
    check(&one("{to: [{operation: {ports: ['0', mongo]}}]}"), &["\"0\", which is not", "\"mongo\", which is not"]);
    let both_addresses = "{from: [{source: {ipBlocks: ['::1'], remoteIpBlocks: ['::1']}}]}";
    check(
        &one(both_addresses),
        &["spec.rules[1] needs both the address of the connection and the address of the client"],
    );
    let beginning_and_end = "{from: [{source: {principals: ['a*']}}], when: [{key: source.principal, values: ['*b']}]}";
    check(&one(beginning_and_end), &["spec.rules[1] requires \"a*\" and \"*b\" at once"]);
    // All problems are found at once, and nothing is imported.
    let several = policy("ALLOW", "[{}]") + &policy("CUSTOM", "[{}]") + &policy("DENY", "[{to: [{}]}]");
    check(&several, &["document 2, AuthorizationPolicy p", "document 3, AuthorizationPolicy p"]);
    let others = policy("ALLOW", "[{}]").replace("AuthorizationPolicy", "RequestAuthentication");
    check(&others, &["kind must be AuthorizationPolicy or PeerAuthentication"]);
    let old = policy("ALLOW", "[{}]").replace("istio.io/v1", "istio.io/v1alpha1");
    check(&old, &["apiVersion must be one of"]);
}

#[test]
fn invalid_yaml_is_an_error() {
    let check = |yaml: &str, expected: &str| match import(yaml, 27017, "mesh.yaml") {
        Err(ImportError::Yaml(sentence)) => assert!(sentence.contains(expected), "{yaml}: {sentence}"),
        other => panic!("{yaml}: {other:?}"),
    };
    check("a: [", "the text is not YAML: ");
    check("kind: a\nkind: b\n", "line 2");
    check("", "the file has no document");
    check("---\n---\n", "the file has no document");
    // The expansion of anchors is limited.
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for depth in 1..9 {
        let inner = vec![format!("*a{}", depth - 1); 10].join(", ");
        let _ = writeln!(bomb, "a{depth}: &a{depth} [{inner}]");
    }
    check(&bomb, "the text is not YAML: ");
}

#[test]
fn peer_authentication_becomes_a_suggested_mode() {
    let check = |spec: &str, expected: &str| {
        let head = "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {name: default}\n";
        let text = imported(&format!("{head}spec: {spec}\n"));
        assert!(text.contains(expected), "{spec}: {text}");
        assert_eq!(text.contains("# mode = "), expected.starts_with("# mode = "), "{spec}: {text}");
    };
    check("{mtls: {mode: STRICT}}", "# mode = \"strict\"");
    check("{mtls: {mode: PERMISSIVE}}", "# mode = \"permissive\"");
    check("{mtls: {mode: DISABLE}}", "# mode = \"plaintext\"");
    check("{mtls: {mode: UNSET}}", "# A PeerAuthentication with a wider scope decides");
    check("{}", "it sets no mode");
    check(
        "{mtls: {mode: STRICT}, portLevelMtls: {27017: {mode: DISABLE}, 1: {mode: STRICT}}}",
        "# mode = \"plaintext\"",
    );
    check("{mtls: {mode: STRICT}, portLevelMtls: {27017: {mode: UNSET}}}", "# mode = \"strict\"");
    check("{mtls: {mode: STRICT}, portLevelMtls: {'9090': {mode: DISABLE}}}", "# mode = \"strict\"");
    check("{selector: {matchLabels: {app: mongo}}}", "for app = mongo: it sets no mode");
}

#[test]
fn lists_of_kubectl_and_texts_with_line_breaks_are_read() {
    let item = policy("ALLOW", "[{}]").replace("\n---\n", "").replace('\n', "\n  ");
    let list = format!("apiVersion: v1\nkind: List\nitems:\n- {item}\n");
    assert_eq!(rules(&list), "[[policy.rule]]\nname = \"shop.p\"\naction = \"allow\"");
    // Values are read back unchanged.
    let strange = "[{from: [{source: {principals: [\"a\\\"b\\\\c\\n\\u0001é\"]}}]}]";
    let rules = config(&policy("DENY", strange)).policy.unwrap().rules;
    assert_eq!(rules[0].from.as_ref().unwrap()[0].principals.any, Some(vec!["a\"b\\c\n\u{1}é".to_owned()]));
    let hostile = policy("ALLOW", "[{}]").replace("name: p", "name: \"p\\n[policy]\\nenforcement = 'dry-run'\"");
    let text = imported(&hostile);
    assert_eq!(text.matches("\n[policy]").count(), 1, "{text}");
    config(&hostile);
}
