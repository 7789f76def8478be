//! Which addresses recordings are fetched from: those below the configured base, and no others.
//!
//! Whoever can push can put any text into a recording's address. It is looked at as text first, as
//! a URL parser quietly turns backslashes, tabs and encoded dots into something else, and then as a
//! URL. What a DNS name resolves to is not looked at: the base's name is the operator's choice.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use url::Url;

/// Longer addresses are none of the platform's.
const LONGEST: usize = 2048;

/// Where recordings lie: scheme, host, port and folder.
#[derive(Clone, Debug)]
pub struct Base(Url);

/// The base is no address to fetch from.
#[derive(Debug, thiserror::Error)]
#[error("platform.voice_base_url is no http or https address without credentials and query")]
pub struct BadBase;

/// Why an address is refused. None of them repeats the address, which may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It is longer than any of the platform's.
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
    /// It holds a character that readers of URLs read differently.
    #[error("it holds a white space, a control character, a backslash or a #")]
    BadCharacter,
    /// It is no URL.
    #[error("it is no URL")]
    NoUrl,
    /// Its scheme is not the voice server's.
    #[error("its scheme is not the voice server's")]
    OtherScheme,
    /// It names a user.
    #[error("it holds credentials")]
    Credentials,
    /// It leads to another host or port.
    #[error("it leads to another host or port than the voice server's")]
    OtherHost,
    /// It climbs up, or hides a separator.
    #[error("its path holds dots for folders, a semicolon or an encoded separator")]
    Climbs,
    /// It lies beside the base's folder.
    #[error("it lies outside the voice server's folder")]
    Outside,
}

impl Base {
    /// The base that is configured; what it names is taken as a folder.
    pub fn parse(base: &str) -> Result<Self, BadBase> {
        let mut url = Url::parse(base).map_err(|_| BadBase)?;
        let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
        let has_credentials = !url.username().is_empty() || url.password().is_some();
        if !is_http || has_credentials || url.query().is_some() || url.fragment().is_some() {
            return Err(BadBase);
        }
        if !url.path().ends_with('/') {
            let folder = format!("{}/", url.path());
            url.set_path(&folder);
        }
        Ok(Self(url))
    }

    /// The address of a recording as it was pushed: relative to the base, also with a slash before
    /// it, or whole.
    pub fn resolve(&self, given: &str) -> Result<Url, AddressError> {
        check_text(given)?;
        let url = if has_scheme(given) {
            self.whole(given)?
        } else {
            // A first segment with a colon would be read as a scheme.
            let path = given.strip_prefix('/').unwrap_or(given);
            if path.is_empty() {
                return Err(AddressError::Empty);
            }
            self.0
                .join(&format!("./{path}"))
                .map_err(|_| AddressError::NoUrl)?
        };
        self.check(url)
    }

    /// Where a redirect from `from` leads.
    pub fn follow(&self, from: &Url, location: &str) -> Result<Url, AddressError> {
        check_text(location)?;
        let url = if has_scheme(location) {
            self.whole(location)?
        } else {
            from.join(location).map_err(|_| AddressError::NoUrl)?
        };
        self.check(url)
    }

    fn whole(&self, given: &str) -> Result<Url, AddressError> {
        let (scheme, rest) = given.split_once(':').unwrap_or_default();
        if !scheme.eq_ignore_ascii_case(self.0.scheme()) {
            return Err(AddressError::OtherScheme);
        }
        let rest = rest.strip_prefix("//").ok_or(AddressError::NoUrl)?;
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(AddressError::Credentials);
        }
        if authority.is_empty() {
            return Err(AddressError::NoUrl);
        }
        Url::parse(given).map_err(|_| AddressError::NoUrl)
    }

    /// Whatever the text was, what came of it must lie below the base.
    fn check(&self, url: Url) -> Result<Url, AddressError> {
        if url.scheme() != self.0.scheme() {
            return Err(AddressError::OtherScheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressError::Credentials);
        }
        if url.origin() != self.0.origin() {
            return Err(AddressError::OtherHost);
        }
        if !url.path().starts_with(self.0.path()) {
            return Err(AddressError::Outside);
        }
        Ok(url)
    }
}

/// Refuses what different readers of URLs read differently.
fn check_text(given: &str) -> Result<(), AddressError> {
    if given.is_empty() {
        return Err(AddressError::Empty);
    }
    if given.len() > LONGEST {
        return Err(AddressError::TooLong);
    }
    let is_bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '\\' | '#');
    if given.contains(is_bad) {
        return Err(AddressError::BadCharacter);
    }
    if given.starts_with("//") {
        return Err(AddressError::OtherHost);
    }
    let path = given.split('?').next().unwrap_or_default();
    path.split('/').try_for_each(check_segment)
}

/// Refuses a segment that is, or hides, a step up or another separator; also when it is encoded
/// several times over.
fn check_segment(segment: &str) -> Result<(), AddressError> {
    let mut plain = Cow::Borrowed(segment);
    loop {
        if matches!(&*plain, "." | "..") {
            return Err(AddressError::Climbs);
        }
        let decoded = percent_decode_str(&plain).decode_utf8_lossy().into_owned();
        // Servers of Java read `..;x` as `..`.
        let is_separator = |c: char| matches!(c, '/' | '\\' | ';') || c.is_control();
        if decoded.contains(is_separator) {
            return Err(AddressError::Climbs);
        }
        if decoded == *plain {
            return Ok(());
        }
        plain = Cow::Owned(decoded);
    }
}

/// Whether a text begins with a scheme, by the letter of RFC 3986.
fn has_scheme(given: &str) -> bool {
    let Some((scheme, _)) = given.split_once(':') else {
        return false;
    };
    let mut chars = scheme.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn base() -> Base {
        Base::parse("http://voice.example:9000/rec").unwrap()
    }

    #[test]
    fn an_address_below_the_base_is_taken_relative_or_whole() {
        for (given, expected) in [
            ("ant/4/a.wav", "http://voice.example:9000/rec/ant/4/a.wav"),
            ("/ant/4/a.wav", "http://voice.example:9000/rec/ant/4/a.wav"),
            ("a%20b.wav", "http://voice.example:9000/rec/a%20b.wav"),
            ("12:30.wav", "http://voice.example:9000/rec/12:30.wav"),
            (
                "a.wav?sign=x/..",
                "http://voice.example:9000/rec/a.wav?sign=x/..",
            ),
            (
                "录音.wav",
                "http://voice.example:9000/rec/%E5%BD%95%E9%9F%B3.wav",
            ),
            (
                "HTTP://Voice.Example:9000/rec/a.wav",
                "http://voice.example:9000/rec/a.wav",
            ),
        ] {
            let url = base().resolve(given);
            assert_eq!(url.as_ref().map(Url::as_str), Ok(expected), "{given}");
        }
    }

    #[test]
    fn an_address_elsewhere_is_refused_and_says_why() {
        use AddressError as E;
        for (given, why) in [
            ("", E::Empty),
            ("/", E::Empty),
            ("http://169.254.169.254/latest/meta-data", E::OtherHost),
            ("http://voice.example/rec/a.wav", E::OtherHost),
            ("http://voice.example:9001/rec/a.wav", E::OtherHost),
            ("http://voice.example.evil:9000/rec/a.wav", E::OtherHost),
            ("http://[::1]:9000/rec/a.wav", E::OtherHost),
            ("http://[::ffff:127.0.0.1]:9000/rec/a.wav", E::OtherHost),
            ("http://0x7f.1:9000/rec/a.wav", E::OtherHost),
            ("//evil/rec/a.wav", E::OtherHost),
            ("///evil/rec/a.wav", E::OtherHost),
            ("/\\evil/a.wav", E::BadCharacter),
            ("\\\\evil\\a.wav", E::BadCharacter),
            ("http:\\\\evil\\a.wav", E::BadCharacter),
            ("http://voice.example:9000\\@evil/a.wav", E::BadCharacter),
            ("http://u:p@voice.example:9000/rec/a.wav", E::Credentials),
            ("http://voice.example:9000@evil/rec/a.wav", E::Credentials),
            ("http://@voice.example:9000/rec/a.wav", E::Credentials),
            ("https://voice.example:9000/rec/a.wav", E::OtherScheme),
            ("file:///etc/passwd", E::OtherScheme),
            ("ftp://voice.example:9000/rec/a.wav", E::OtherScheme),
            ("gopher://voice.example:9000/_x", E::OtherScheme),
            ("javascript:alert(1)", E::OtherScheme),
            ("http:evil/a.wav", E::NoUrl),
            ("http:/evil/a.wav", E::NoUrl),
            ("http:///evil/a.wav", E::NoUrl),
            ("http://voice.example:99999/rec/a.wav", E::NoUrl),
            ("../a.wav", E::Climbs),
            ("ant/../../a.wav", E::Climbs),
            ("ant/./a.wav", E::Climbs),
            ("ant/..", E::Climbs),
            ("%2e%2e/a.wav", E::Climbs),
            (".%2E/a.wav", E::Climbs),
            ("%252e%252e/a.wav", E::Climbs),
            ("ant%2f..%2f..%2fa.wav", E::Climbs),
            ("..%5ca.wav", E::Climbs),
            ("a%00.wav", E::Climbs),
            ("a%0d%0aHost:evil", E::Climbs),
            ("http://voice.example:9000/rec/../a.wav", E::Climbs),
            ("http://voice.example:9000/a.wav", E::Outside),
            ("http://voice.example:9000/recordings/a.wav", E::Outside),
            ("http://voice.example:9000", E::Outside),
            ("a b.wav", E::BadCharacter),
            ("a\n.wav", E::BadCharacter),
            ("ht\ttp://evil/a.wav", E::BadCharacter),
            (" http://evil/a.wav", E::BadCharacter),
            ("a.wav#x", E::BadCharacter),
        ] {
            assert_eq!(base().resolve(given).unwrap_err(), why, "{given:?}");
        }
        let long = "a".repeat(LONGEST + 1);
        assert_eq!(base().resolve(&long), Err(E::TooLong));
    }

    #[test]
    fn a_redirect_is_followed_below_the_base_alone() {
        let from = base().resolve("ant/4/a.wav").unwrap();
        let follow = |location| base().follow(&from, location).map(String::from);
        let at = |path: &str| Ok(format!("http://voice.example:9000/rec/{path}"));
        assert_eq!(follow("b.wav"), at("ant/4/b.wav"));
        assert_eq!(follow("/rec/b.wav"), at("b.wav"));
        assert_eq!(follow("http://voice.example:9000/rec/b.wav"), at("b.wav"));
        for (location, why) in [
            ("", AddressError::Empty),
            ("/b.wav", AddressError::Outside),
            ("../../../b.wav", AddressError::Climbs),
            ("//evil/rec/b.wav", AddressError::OtherHost),
            ("http://evil/rec/b.wav", AddressError::OtherHost),
            (
                "https://voice.example:9000/rec/b.wav",
                AddressError::OtherScheme,
            ),
            (
                "http://a@voice.example:9000/rec/b.wav",
                AddressError::Credentials,
            ),
        ] {
            assert_eq!(follow(location), Err(why), "{location}");
        }
    }

    #[test]
    fn a_base_that_nothing_can_be_fetched_from_is_refused() {
        for base in [
            "",
            "voice.example",
            "ftp://voice.example/",
            "http://u:p@voice.example/",
            "http://voice.example/?a=b",
            "http://voice.example/#a",
        ] {
            assert!(Base::parse(base).is_err(), "{base}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_given_nothing_beside_the_base_comes_of_it(
            given in r"(https?:|//|/|\\|@|\.\.|%2e|%2f|%25|voice\.example|:9000|rec|[a-z%#?\[\]:\t 0-9.]){0,9}",
        ) {
            if let Ok(url) = base().resolve(&given) {
                let text = url.as_str();
                prop_assert!(text.starts_with("http://voice.example:9000/rec/"), "{}", text);
                let path = url.path();
                prop_assert!(!path.split('/').any(|segment| segment == ".."), "{}", path);
            }
        }

        #[test]
        fn reading_any_text_does_not_panic(given in ".{0,200}", location in ".{0,50}") {
            if let Ok(url) = base().resolve(&given) {
                drop(base().follow(&url, &location));
            }
        }
    }
}
