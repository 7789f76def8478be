//! One push for each oddity that the live platform has been seen to send, or
//! that the documents' contradictions make likely.

mod bodies;
mod fields;
mod modules;
mod wire;

use serde_json::Value;

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

const JSON: Option<&str> = Some("application/json;charset=UTF-8");
const RECORD: &str = "receiveCallRecord";
const VOICE_MODULE: &str = "receiveVoice";
const DIALOG: &str = "receiveDialog";

/// All quirks. No two have the same body and module, so that a receiver that
/// drops doubles still shows each of them.
pub fn quirks() -> Vec<Quirk> {
    quirks_with(None)
}

/// All quirks, with the base of the absolute recording URL.
pub(super) fn quirks_with(voice_base_url: Option<&str>) -> Vec<Quirk> {
    let mut quirks = wire::quirks();
    quirks.extend(fields::quirks());
    quirks.extend(modules::records());
    quirks.extend(modules::voices(
        voice_base_url.unwrap_or("http://voice.kxjlcc.com:9000/"),
    ));
    quirks.extend(modules::dialogs());
    quirks
}

fn raw(
    name: &'static str,
    module: &'static str,
    content_type: Option<&'static str>,
    body: impl Into<Vec<u8>>,
) -> Quirk {
    Quirk {
        name,
        module,
        content_type,
        body: body.into(),
    }
}

fn of(name: &'static str, module: &'static str, body: &Value) -> Quirk {
    raw(name, module, JSON, body.to_string())
}

/// A call record whose `call_uuid` is the quirk's own name.
fn odd_record(name: &'static str, changes: &Value) -> Quirk {
    of(name, RECORD, &bodies::record(name, changes))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_bodies_are_all_different() {
        let quirks = quirks();
        let names: HashSet<_> = quirks.iter().map(|quirk| quirk.name).collect();
        let bodies: HashSet<_> = quirks
            .iter()
            .map(|quirk| (quirk.module, &quirk.body))
            .collect();
        assert_eq!((names.len(), bodies.len()), (quirks.len(), quirks.len()));
    }

    #[test]
    fn ids_beyond_doubles_are_written_as_exact_numbers() {
        let quirks = quirks();
        let quirk = quirks
            .iter()
            .find(|quirk| quirk.name == "ids_as_numbers_beyond_doubles");
        let body = String::from_utf8(quirk.unwrap().body.clone()).unwrap();
        assert!(
            body.contains("\"task_data_id\":346252615123869699"),
            "{body}"
        );
    }
}
