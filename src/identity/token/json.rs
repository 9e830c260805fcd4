//! Reads JSON from outside strictly: bounded in depth, and without two members of the same name.
//!
//! A parser that takes the last of two equal names would read another `sub` or `kid` than that of another program.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, de};
use serde_json::{Map, Number, Value};

/// Objects and arrays in each other. A token of Kubernetes has three.
const DEPTH_MAX: usize = 16;

/// The object that `bytes` hold. The error says what is wrong and repeats no contents.
pub(super) fn object(bytes: &[u8]) -> Result<Map<String, Value>, NotAnObject> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = StrictValue { depth: 0 }.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    match value {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(NotAnObject::OtherValue),
        Err(error) if error.to_string().starts_with(TWICE) => Err(NotAnObject::Twice),
        Err(error) if error.to_string().starts_with(TOO_DEEP) => Err(NotAnObject::TooDeep),
        Err(_) => Err(NotAnObject::NotJson),
    }
}

const TWICE: &str = "a name occurs twice";
const TOO_DEEP: &str = "too deep";

/// Why bytes are not a JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAnObject {
    /// The syntax is wrong.
    #[error("it is not JSON")]
    NotJson,
    /// An array, a string, or another value.
    #[error("it is not a JSON object")]
    OtherValue,
    /// Two members of an object have the same name.
    #[error("a name occurs twice in one object")]
    Twice,
    /// More than `DEPTH_MAX` levels.
    #[error("it has more than {DEPTH_MAX} levels of objects and arrays")]
    TooDeep,
}

#[derive(Clone, Copy)]
struct StrictValue {
    depth: usize,
}

impl StrictValue {
    fn inside<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX { Err(E::custom(TOO_DEEP)) } else { Ok(Self { depth: self.depth + 1 }) }
    }
}

impl<'de> DeserializeSeed<'de> for StrictValue {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let (inside, mut array) = (self.inside()?, Vec::new());
        while let Some(item) = items.next_element_seed(inside)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let (inside, mut object) = (self.inside()?, Map::new());
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(inside)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom(TWICE));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_as_serde_json_reads_it() {
        let text = r#"{"a":[1,-2,2.5,true,null,"x\u00e9"],"b":{"c":{}}}"#;
        assert_eq!(object(text.as_bytes()).map(Value::Object), Ok(serde_json::from_str(text).unwrap()));
    }

    #[test]
    fn what_two_parsers_can_read_differently_is_an_error() {
        for (text, expected) in [
            (r#"{"a":1,"a":2}"#, NotAnObject::Twice),
            (r#"{"b":[{"a":1,"\u0061":2}]}"#, NotAnObject::Twice),
            ("[]", NotAnObject::OtherValue),
            ("\"x\"", NotAnObject::OtherValue),
            ("", NotAnObject::NotJson),
            ("{}{}", NotAnObject::NotJson),
            ("{} x", NotAnObject::NotJson),
            ("{\"a\":NaN}", NotAnObject::NotJson),
            ("\u{feff}{}", NotAnObject::NotJson),
        ] {
            assert_eq!(object(text.as_bytes()), Err(expected), "{text}");
        }
        let nested = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert!(object(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert_eq!(object(nested(DEPTH_MAX + 1).as_bytes()), Err(NotAnObject::TooDeep));
        assert!(object("[".repeat(16_000).as_bytes()).is_err());
        assert_eq!(object(b"{\"a\":\"\xff\"}"), Err(NotAnObject::NotJson));
    }
}
