//! One push for each oddity that the live platform has been seen to send.

/// An odd push, as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Quirk {
    /// What is odd about it, as a short name in snake case.
    pub name: &'static str,
    /// The module it is pushed to.
    pub module: &'static str,
    /// Its Content-Type; none: the header is missing.
    pub content_type: Option<&'static str>,
    /// The body's bytes, which need not be JSON.
    pub body: Vec<u8>,
}

/// All quirks.
pub fn quirks() -> Vec<Quirk> {
    quirks_with(None)
}

pub(super) fn quirks_with(_voice_base_url: Option<&str>) -> Vec<Quirk> {
    Vec::new()
}
