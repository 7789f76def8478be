//! Settings from the environment: `YETA_GATEWAY__GRPC__LISTEN` is `grpc.listen`, and
//! `YETA_GATEWAY__ACCOUNTS__0__NAME` the name of the first account.

use toml::{Table, Value};

use super::reader::Fault;

const PREFIX: &str = "YETA_GATEWAY__";

/// Lays the variables with our prefix over what the file said.
pub fn overlay(
    table: &mut Table,
    variables: impl Iterator<Item = (String, String)>,
    faults: &mut Vec<Fault>,
) {
    let mut ours: Vec<_> = variables
        .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?.to_lowercase(), value)))
        .collect();
    // Sorted, so that the elements of a list come in their order.
    ours.sort();
    for (path, value) in ours {
        let segments: Vec<&str> = path.split("__").collect();
        if !set(table, &segments, value) {
            let key = format!("{PREFIX}{}", path.to_uppercase());
            faults.push(Fault {
                key,
                problem: "names no setting".into(),
            });
        }
    }
}

fn set(table: &mut Table, path: &[&str], value: String) -> bool {
    match path {
        [] => false,
        [name] => {
            table.insert((*name).to_owned(), Value::String(value));
            !name.is_empty()
        }
        [name, index, rest @ ..] if index.parse::<usize>().is_ok() => {
            let list = table
                .entry(*name)
                .or_insert_with(|| Value::Array(Vec::new()));
            let (Value::Array(list), Ok(index)) = (list, index.parse::<usize>()) else {
                return false;
            };
            if index == list.len() {
                list.push(Value::Table(Table::new()));
            }
            match list.get_mut(index) {
                Some(Value::Table(table)) => set(table, rest, value),
                _ => false,
            }
        }
        [name, rest @ ..] => {
            let inner = table
                .entry(*name)
                .or_insert_with(|| Value::Table(Table::new()));
            match inner {
                Value::Table(inner) => set(inner, rest, value),
                _ => false,
            }
        }
    }
}
