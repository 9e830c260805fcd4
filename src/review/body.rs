//! Converts bodies of commands from extended JSON to BSON.
//!
//! The bson crate converts the values. This file keeps what the crate would lose: the order of keys, because the first
//! key is the command, and duplicate keys, because a policy denies them.
//!
//! Spec: extended-json/extended-json.md, canonical and relaxed.

use bson::Bson;
use bson::raw::{CStr, RawArrayBuf, RawBson, RawDocumentBuf};

use super::tree::Node;

/// The keys that mark a table as a value of a BSON type that JSON does not have.
const WRAPPERS: [&str; 16] = [
    "$oid",
    "$symbol",
    "$regularExpression",
    "$numberInt",
    "$numberLong",
    "$numberDouble",
    "$numberDecimal",
    "$binary",
    "$uuid",
    "$code",
    "$timestamp",
    "$date",
    "$minKey",
    "$maxKey",
    "$dbPointer",
    "$undefined",
];

/// The key with which the TOML parser marks a date.
const TOML_DATE: &str = "$__toml_private_datetime";

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Invalid JSON.
    #[error("the body is not JSON: {0}")]
    Json(String),
    /// Valid JSON, but not an object.
    #[error("the body is {0}; a command is an object, for example {{\"find\": \"orders\", \"$db\": \"shop\"}}")]
    NotObject(&'static str),
    /// A value has no equivalent in BSON.
    #[error("the body's {path} {sentence}")]
    Value {
        /// The path of the value, for example `pipeline[1].$match`; indexes start at 1.
        path: String,
        /// What is wrong with the value; begins with a verb.
        sentence: String,
    },
}

/// The keys and values of a JSON object.
pub(super) fn parse(json: &str) -> Result<Vec<(String, Node)>, BodyError> {
    match serde_json::from_str(json).map_err(|error| BodyError::Json(error.to_string()))? {
        Node::Table(entries) => Ok(entries),
        other => Err(BodyError::NotObject(other.kind())),
    }
}

/// The document of these keys and values.
pub(super) fn document(entries: &[(String, Node)], path: &str) -> Result<RawDocumentBuf, BodyError> {
    let mut document = RawDocumentBuf::new();
    for (key, value) in entries {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let value = bson(value, &path)?;
        let key = <&CStr>::try_from(key.as_str())
            .map_err(|_| wrong(&path.escape_debug().to_string(), "has a key with a NUL, which BSON does not allow"))?;
        document.append(key, value);
    }
    Ok(document)
}

fn bson(node: &Node, path: &str) -> Result<RawBson, BodyError> {
    Ok(match node {
        Node::Null => RawBson::Null,
        Node::Bool(value) => RawBson::Boolean(*value),
        Node::Integer(value) => i32::try_from(*value).map_or(RawBson::Int64(*value), RawBson::Int32),
        Node::Float(value) => RawBson::Double(*value),
        Node::Text(text) => RawBson::String(text.clone()),
        Node::List(values) => {
            let mut array = RawArrayBuf::new();
            for (at, value) in values.iter().enumerate() {
                array.push(bson(value, &format!("{path}[{}]", at + 1))?);
            }
            RawBson::Array(array)
        }
        Node::Table(entries) if entries.iter().any(|(key, _)| key == TOML_DATE) => {
            return Err(wrong(path, "is a TOML date; write { \"$date\" = \"2026-01-31T12:00:00Z\" }"));
        }
        Node::Table(entries) if entries.iter().any(|(key, _)| WRAPPERS.contains(&key.as_str())) => {
            let value = json(node, path)?;
            let value = Bson::try_from(value).map_err(|error| wrong(path, &format!("cannot be read: {error}")))?;
            RawBson::try_from(value).map_err(|error| wrong(path, &format!("cannot be written: {error}")))?
        }
        Node::Table(entries) => RawBson::Document(document(entries, path)?),
    })
}

/// The value in the form that the bson crate converts. Only for values of special types: in these, the order of keys
/// does not matter, and duplicate keys are an error.
fn json(node: &Node, path: &str) -> Result<serde_json::Value, BodyError> {
    use serde_json::Value;
    Ok(match node {
        Node::Null => Value::Null,
        Node::Bool(value) => (*value).into(),
        Node::Integer(value) => (*value).into(),
        Node::Float(value) => (*value).into(),
        Node::Text(text) => text.as_str().into(),
        Node::List(values) => Value::Array(values.iter().map(|value| json(value, path)).collect::<Result<_, _>>()?),
        Node::Table(entries) => {
            let mut map = serde_json::Map::new();
            for (key, value) in entries {
                if map.insert(key.clone(), json(value, path)?).is_some() {
                    return Err(wrong(path, &format!("has the key {key:?} twice")));
                }
            }
            Value::Object(map)
        }
    })
}

fn wrong(path: &str, sentence: &str) -> BodyError {
    BodyError::Value { path: path.to_owned(), sentence: sentence.to_owned() }
}

#[cfg(test)]
mod tests {
    use bson::doc;
    use bson::oid::ObjectId;

    use super::*;

    fn read(json: &str) -> Result<RawDocumentBuf, BodyError> {
        document(&parse(json)?, "")
    }

    #[test]
    fn extended_json_keeps_the_order_of_its_keys() {
        let check = |json: &str, expected: bson::Document| {
            assert_eq!(read(json).unwrap(), RawDocumentBuf::try_from(&expected).unwrap(), "{json}");
        };
        check(r#"{"find": "orders", "$db": "shop"}"#, doc! { "find": "orders", "$db": "shop" });
        check(r#"{"z": 1, "a": 2147483648, "m": 1.5}"#, doc! { "z": 1, "a": 2_147_483_648_i64, "m": 1.5 });
        check(r#"{"z": {"b": 1, "a": [true, null]}}"#, doc! { "z": { "b": 1, "a": [true, Bson::Null] } });
        check(r#"{"n": {"$numberLong": "1"}, "d": {"$numberInt": "2"}}"#, doc! { "n": 1_i64, "d": 2 });
        let id = ObjectId::parse_str("65a1b2c3d4e5f60718293a4b").unwrap();
        check(r#"{"_id": {"$oid": "65a1b2c3d4e5f60718293a4b"}}"#, doc! { "_id": id });
        check(r#"{"at": {"$date": "1970-01-01T00:00:01Z"}}"#, doc! { "at": bson::DateTime::from_millis(1000) });
        check(r#"{"f": {"a": {"$gt": 1, "$lt": 2}}}"#, doc! { "f": { "a": { "$gt": 1, "$lt": 2 } } });
        check(r#"{"big": 18446744073709551615}"#, doc! { "big": 18_446_744_073_709_551_615.0 });
    }

    #[test]
    fn duplicate_keys_are_kept() {
        let body = read(r#"{"find": "orders", "find": "secrets", "filter": {"a": 1, "a": 2}}"#).unwrap();
        let keys: Vec<_> = body.iter().map(|element| element.unwrap().0.as_str().to_owned()).collect();
        assert_eq!(keys, ["find", "find", "filter"]);
        assert_eq!(body.get_document("filter").unwrap().iter().count(), 2);
    }

    #[test]
    fn errors_name_the_value() {
        let check = |json: &str, expected: &str| {
            let error = read(json).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{json}: {error}");
        };
        check("{\"find\": ", "the body is not JSON: EOF while parsing");
        check("{\"find\": 1} {}", "the body is not JSON: trailing characters");
        check("[1]", "the body is a list; a command is an object");
        check("{\"a\\u0000b\": 1}", "the body's a\\0b has a key with a NUL");
        check("{\"a\": [{\"$oid\": \"x\"}]}", "the body's a[1] cannot be read: ");
        check("{\"a\": {\"$oid\": \"x\", \"b\": 1}}", "the body's a cannot be read: ");
        check(
            "{\"a\": {\"$numberInt\": \"1\", \"$numberInt\": \"2\"}}",
            "the body's a has the key \"$numberInt\" twice",
        );
    }
}
