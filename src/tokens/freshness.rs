//! How long a response may be used without asking again.
//!
//! Spec: RFC 9111 § 4.2.1, § 5.1, § 5.2.2.1.

use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{AGE, CACHE_CONTROL, HeaderName};

/// The rest of `max-age`: less the time that the response has spent in caches on its way. `None` without `max-age`.
///
/// `no-cache` and `no-store` do not matter: the keys are asked for again and again anyway, and are never served to
/// others.
pub(super) fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let directives = values(headers, &CACHE_CONTROL).flat_map(|value| value.split(','));
    let ages = directives.filter_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("max-age") { seconds(value.trim().trim_matches('"')) } else { None }
    });
    let passed = values(headers, &AGE).filter_map(|value| seconds(value.trim())).max().unwrap_or_default();
    ages.min().map(|age| Duration::from_secs(age.saturating_sub(passed)))
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

/// Digits only; what is too long for a number is a very long time.
fn seconds(text: &str) -> Option<u64> {
    let are_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    are_digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn max_age_is_found_among_other_directives_and_less_the_age() {
        for (cache_control, age, expected) in [
            (&["public, max-age=3600"][..], None, Some(3600)),
            (&["no-cache, private"], None, None),
            (&["no-store, Max-Age=\"60\" , must-revalidate"], None, Some(60)),
            (&["public", "max-age=30, max-age=20"], None, Some(20)),
            (&["max-age=100"], Some("40"), Some(60)),
            (&["max-age=100"], Some("400"), Some(0)),
            (&["max-age=100"], Some("x"), Some(100)),
            (&["max-age=0"], None, Some(0)),
            (&["max-age=99999999999999999999999"], None, Some(u64::MAX)),
            (
                &["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=+1", "s-maxage=5", "xmax-age=5"],
                None,
                None,
            ),
            (&[], Some("5"), None),
        ] {
            let mut headers = HeaderMap::new();
            for value in cache_control {
                headers.append(CACHE_CONTROL, HeaderValue::from_static(value));
            }
            headers.extend(age.map(|age| (AGE, HeaderValue::from_static(age))));
            assert_eq!(max_age(&headers), expected.map(Duration::from_secs), "{cache_control:?} {age:?}");
        }
        let mut headers = HeaderMap::new();
        headers.append(CACHE_CONTROL, HeaderValue::from_bytes(b"max-age=5\xff").unwrap());
        assert_eq!(max_age(&headers), None);
    }
}
