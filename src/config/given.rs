//! Converts one value of the file or the environment to a string, a number, a list or a boolean.

use std::time::{Duration, SystemTime};

use figment::value::Value;
use toml::value::{Datetime, Offset};

use super::error::Origin;
use super::error::datetime_text;

/// A value as given in the file or in an environment variable. The value of a variable is always a string.
pub(super) struct Given<'a> {
    pub(super) value: &'a Value,
    pub(super) origin: &'a Origin,
}

impl Given<'_> {
    /// A string that is not empty. `what` describes the expected string, with an example in quotes.
    pub(super) fn text(&self, what: &str) -> Result<&str, String> {
        match self.value {
            Value::String(_, text) if !text.is_empty() => Ok(text),
            Value::String(..) => Err(format!("is empty; it must be {what}")),
            _ => Err(format!("must be a string in quotes: {what}")),
        }
    }

    /// An integer from `min` to `max`.
    pub(super) fn whole_number(&self, min: usize, max: usize) -> Result<usize, String> {
        let quotes = matches!((self.value, self.origin), (Value::String(..), Origin::File(_)));
        let number = match self.value {
            Value::Num(_, number) => number.to_i128().and_then(|number| usize::try_from(number).ok()),
            // The value of a variable is a string.
            Value::String(_, text) if !quotes => text.parse().ok(),
            _ => None,
        };
        let hint = if quotes { ", without quotes" } else { "" };
        let number = number.filter(|number| (min..=max).contains(number));
        number.ok_or_else(|| format!("must be an integer from {min} to {max}{hint}"))
    }

    /// A list of strings that are not empty. In a variable they are separated by commas.
    ///
    /// `what` describes one expected string, with an example in quotes.
    pub(super) fn texts(&self, what: &str) -> Result<Vec<&str>, String> {
        let wrong = || format!("must be a list of strings in quotes, each {what}");
        let texts: Option<Vec<&str>> = match (self.value, self.origin) {
            (Value::Array(_, entries), _) => entries.iter().map(Value::as_str).collect(),
            (Value::String(_, text), Origin::Variable(_)) if text.is_empty() => Some(Vec::new()),
            (Value::String(_, text), Origin::Variable(_)) => Some(text.split(',').map(str::trim).collect()),
            _ => None,
        };
        texts.filter(|texts| texts.iter().all(|text| !text.is_empty())).ok_or_else(wrong)
    }

    /// A list of integers from 0 to 2^32 - 1. In a variable they are separated by commas.
    pub(super) fn numbers(&self) -> Result<Vec<u32>, String> {
        let numbers: Option<Vec<u32>> = match (self.value, self.origin) {
            (Value::Array(_, entries), _) => {
                let number = |value: &Value| value.to_i128().and_then(|number| u32::try_from(number).ok());
                entries.iter().map(number).collect()
            }
            (Value::String(_, text), Origin::Variable(_)) => {
                text.split(',').map(|text| text.trim().parse().ok()).collect()
            }
            _ => None,
        };
        numbers.ok_or_else(|| format!("must be a list of integers from 0 to {}, as in [1001]", u32::MAX))
    }

    /// A TOML date and time with its offset from UTC, from 1970 on.
    pub(super) fn instant(&self) -> Result<SystemTime, String> {
        const EXPECTED: &str = "a date and a time with the offset from UTC, without quotes, as in 2026-12-01T18:00:00Z";
        let wrong = || format!("must be {EXPECTED}");
        let text = datetime_text(self.value).ok_or_else(wrong)?;
        let given: Datetime = text.parse().map_err(|_| wrong())?;
        let ahead = match given.offset {
            Some(Offset::Z) => 0,
            Some(Offset::Custom { minutes }) => i64::from(minutes) * 60,
            None => return Err(format!("has no offset from UTC; it must be {EXPECTED}")),
        };
        let as_utc = Datetime { offset: Some(Offset::Z), ..given }.to_string();
        let local = humantime::parse_rfc3339(&as_utc).map_err(|_| wrong())?;
        let distance = Duration::from_secs(ahead.unsigned_abs());
        let instant = if ahead < 0 { local.checked_add(distance) } else { local.checked_sub(distance) };
        instant.filter(|instant| *instant >= SystemTime::UNIX_EPOCH).ok_or_else(wrong)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, String> {
        match (self.value, self.origin) {
            (Value::Bool(_, value), _) => Ok(*value),
            (Value::String(_, text), Origin::Variable(_)) if text == "true" => Ok(true),
            (Value::String(_, text), Origin::Variable(_)) if text == "false" => Ok(false),
            (Value::String(..), Origin::File(_)) => Err("must be true or false, without quotes".to_owned()),
            _ => Err("must be true or false".to_owned()),
        }
    }
}
