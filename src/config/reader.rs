//! Reads settings one by one and remembers every fault, so that all are reported at once.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::{Table, Value};

/// The longest duration of any setting: far below what overflows the arithmetic of times.
pub const LONGEST: Duration = Duration::from_hours(10 * 365 * 24);

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The setting, as `grpc.listen` or `accounts[0].name`.
    pub key: String,
    /// What is wrong with it, with the value where that is no secret.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

/// A value that a setting can have.
pub trait Setting: Sized {
    /// What a value must be, for the message when it is not.
    const EXPECTED: &'static str;

    /// Reads a value; text from the environment stands for any kind.
    fn read(value: &Value) -> Option<Self>;
}

/// Hundredths of a whole, from 0 to 99.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub u8);

impl Setting for Percent {
    const EXPECTED: &'static str = r#"a part from "0%" to "99%""#;

    fn read(value: &Value) -> Option<Self> {
        let percent: u8 = value.as_str()?.strip_suffix('%')?.parse().ok()?;
        (percent < 100).then_some(Self(percent))
    }
}

/// The settings of one table that have not been read yet.
pub struct Section<'a> {
    path: String,
    table: Table,
    faults: &'a mut Vec<Fault>,
}

impl<'a> Section<'a> {
    /// The whole configuration.
    pub fn root(table: Table, faults: &'a mut Vec<Fault>) -> Self {
        Self {
            path: String::new(),
            table,
            faults,
        }
    }

    /// A setting's full name.
    pub fn key(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// Notes that something is wrong with a setting.
    pub fn fault(&mut self, name: &str, problem: impl Into<String>) {
        let key = self.key(name);
        self.faults.push(Fault {
            key,
            problem: problem.into(),
        });
    }

    /// Whether there is a setting of that name, and it has not been read yet.
    pub fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Reads a setting that may be missing.
    pub fn optional<T: Setting>(&mut self, name: &str) -> Option<T> {
        let value = self.table.remove(name)?;
        let read = T::read(&value);
        if read.is_none() {
            self.fault(name, format!("expected {}, got {value}", T::EXPECTED));
        }
        read
    }

    /// Reads a setting, or takes its default.
    pub fn get<T: Setting>(&mut self, name: &str, default: T) -> T {
        self.optional(name).unwrap_or(default)
    }

    /// Reads a duration between `shortest` and [`LONGEST`].
    pub fn duration(&mut self, name: &str, default: Duration, shortest: Duration) -> Duration {
        let value = self.get(name, default);
        let text = humantime::format_duration;
        if value < shortest {
            let problem = format!("{} is shorter than {}", text(value), text(shortest));
            self.fault(name, problem);
        }
        if value > LONGEST {
            self.fault(name, format!("{} is longer than 10 years", text(value)));
        }
        value
    }

    /// Reads a number within `range`.
    pub fn number<T: Setting + PartialOrd + fmt::Display>(
        &mut self,
        name: &str,
        default: T,
        range: RangeInclusive<T>,
    ) -> T {
        let value = self.get(name, default);
        if !range.contains(&value) {
            let (least, most) = range.into_inner();
            self.fault(name, format!("{value} is not between {least} and {most}"));
        }
        value
    }

    /// Reads a setting like [`optional`](Self::optional) whose value no message may show.
    pub fn optional_secret(&mut self, name: &str) -> Option<String> {
        let value = self.table.remove(name)?;
        let read = String::read(&value);
        if read.is_none() {
            self.fault(name, format!("expected {}", String::EXPECTED));
        }
        read
    }

    /// Reads a setting like [`optional_secret`](Self::optional_secret) that may be a list.
    pub fn optional_secrets(&mut self, name: &str) -> Option<Vec<String>> {
        let value = self.table.remove(name)?;
        let read = Vec::<String>::read(&value);
        if read.is_none() {
            self.fault(name, "expected a text or a list of texts");
        }
        read
    }

    /// Reads a table of settings with `read`.
    pub fn section<T>(&mut self, name: &str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let path = self.key(name);
        let table = match self.table.remove(name) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.fault(name, "expected a table");
                Table::new()
            }
        };
        Section {
            path,
            table,
            faults: self.faults,
        }
        .read_whole(read)
    }

    /// Reads an array of tables, each with `read`.
    pub fn sections<T>(
        &mut self,
        name: &str,
        mut read: impl FnMut(&mut Section<'_>) -> T,
    ) -> Vec<T> {
        let tables = match self.table.remove(name) {
            None => Vec::new(),
            Some(Value::Array(tables)) => tables,
            Some(_) => {
                self.fault(name, format!("expected [[{name}]] tables"));
                Vec::new()
            }
        };
        let mut all = Vec::new();
        for (i, table) in tables.into_iter().enumerate() {
            let path = self.key(&format!("{name}[{i}]"));
            let Value::Table(table) = table else {
                self.faults.push(Fault {
                    key: path,
                    problem: "expected a table".into(),
                });
                continue;
            };
            all.push(
                Section {
                    path,
                    table,
                    faults: self.faults,
                }
                .read_whole(&mut read),
            );
        }
        all
    }

    /// Reads a table of texts whose names are the user's own.
    pub fn texts(&mut self, name: &str) -> Vec<(String, String)> {
        self.section(name, |section| {
            let names: Vec<_> = section.table.keys().cloned().collect();
            names
                .into_iter()
                .filter_map(|name| Some((name.clone(), section.optional(&name)?)))
                .collect()
        })
    }

    /// Reads a table, then calls what is left in it unknown.
    pub fn read_whole<T>(mut self, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let value = read(&mut self);
        let unknown: Vec<_> = self.table.keys().cloned().collect();
        for name in unknown {
            self.fault(&name, "unknown key");
        }
        value
    }
}

impl Setting for String {
    const EXPECTED: &'static str = "a text";

    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(ToOwned::to_owned)
    }
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(value: &Value) -> Option<Self> {
        value.as_bool().or_else(|| value.as_str()?.parse().ok())
    }
}

impl Setting for u64 {
    const EXPECTED: &'static str = "a whole number that is not negative";

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(number) => (*number).try_into().ok(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }
}

impl Setting for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";

    fn read(value: &Value) -> Option<Self> {
        u64::read(value)?.try_into().ok()
    }
}

impl Setting for usize {
    const EXPECTED: &'static str = u64::EXPECTED;

    fn read(value: &Value) -> Option<Self> {
        u64::read(value)?.try_into().ok()
    }
}

impl Setting for Duration {
    const EXPECTED: &'static str = r#"a duration such as "10s" or "7d""#;

    fn read(value: &Value) -> Option<Self> {
        humantime::parse_duration(value.as_str()?).ok()
    }
}

impl Setting for SocketAddr {
    const EXPECTED: &'static str = r#"an address such as "127.0.0.1:8080""#;

    fn read(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn read(value: &Value) -> Option<Self> {
        value
            .as_str()
            .filter(|path| !path.is_empty())
            .map(Self::from)
    }
}

impl Setting for http::Uri {
    const EXPECTED: &'static str = r#"an address such as "https://www.example.com/path""#;

    fn read(value: &Value) -> Option<Self> {
        let uri: Self = value.as_str()?.parse().ok()?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        (is_http && uri.query().is_none()).then_some(uri)
    }
}

impl Setting for IpNet {
    const EXPECTED: &'static str = r#"a network such as "10.0.0.0/8""#;

    fn read(value: &Value) -> Option<Self> {
        let text = value.as_str()?;
        text.parse()
            .ok()
            .or_else(|| Some(std::net::IpAddr::into(text.parse().ok()?)))
    }
}

impl<T: Setting> Setting for Vec<T> {
    const EXPECTED: &'static str = "a list";

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Array(values) => values.iter().map(T::read).collect(),
            // The environment has lists as `a,b`, or as TOML writes them.
            Value::String(text) if text.trim_start().starts_with('[') => {
                let table: Table = format!("list = {text}").parse().ok()?;
                table.get("list").and_then(Self::read)
            }
            Value::String(text) => text
                .split(',')
                .map(str::trim)
                .filter(|element| !element.is_empty())
                .map(|element| T::read(&Value::String(element.to_owned())))
                .collect(),
            _ => None,
        }
    }
}
