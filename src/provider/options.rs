//! What can be set, and which settings a question comes under.

use std::collections::BTreeMap;
use std::time::Duration;

use super::endpoint::Endpoint;

/// How questions are answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The service that is asked; none: the fallback is the answer.
    pub endpoint: Option<Endpoint>,
    /// How long an answer may take, from the question's head on.
    pub timeout: Duration,
    /// What `getDialogContext` is answered with in the service's place.
    pub fallback: BTreeMap<String, String>,
    /// How long the first try is silent before a second one is made; zero: none is.
    pub second_try_after: Duration,
    /// How long a connection is used before another one takes its place.
    pub connection_age: Duration,
    /// How long an answer may stand in for a later one about the same `call_relation_id`; zero:
    /// never.
    pub cache_for: Duration,
    /// How many bytes of such answers are held.
    pub cache_bytes: usize,
    /// What differs for an account or a robot.
    pub overrides: Vec<Override>,
}

/// What differs for an account, a robot, or a robot of an account. What is `None` does not differ.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Override {
    /// The account whose questions it is about; `None`: any.
    pub account: Option<String>,
    /// The robot whose questions it is about; `None`: any.
    pub robot_id: Option<String>,
    /// Another service, or none.
    pub endpoint: Option<Whom>,
    /// Another timeout.
    pub timeout: Option<Duration>,
    /// Another fallback, whole.
    pub fallback: Option<BTreeMap<String, String>>,
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Whom {
    /// Nobody: the fallback is the answer.
    Nobody,
    /// This service.
    Service(Endpoint),
}

impl Whom {
    /// The service, if there is one.
    pub fn service(&self) -> Option<&Endpoint> {
        match self {
            Self::Nobody => None,
            Self::Service(endpoint) => Some(endpoint),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoint: None,
            timeout: Duration::from_millis(400),
            fallback: BTreeMap::new(),
            second_try_after: Duration::from_millis(150),
            connection_age: Duration::from_secs(30),
            cache_for: Duration::ZERO,
            cache_bytes: 16 << 20,
            overrides: Vec::new(),
        }
    }
}

/// The settings of one question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Chosen<'a> {
    pub endpoint: Option<&'a Endpoint>,
    pub timeout: Duration,
    pub fallback: &'a BTreeMap<String, String>,
}

impl Options {
    /// All services that may be asked.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        let others = self.overrides.iter();
        let others = others.filter_map(|other| other.endpoint.as_ref()?.service());
        self.endpoint.iter().chain(others)
    }

    /// Each setting from the most specific of those that apply and have it: a robot's own before
    /// its account's, and a robot's of an account before both.
    pub(super) fn for_robot(&self, account: &str, robot_id: &str) -> Chosen<'_> {
        let mut applying: Vec<_> = self
            .overrides
            .iter()
            .filter(|other| other.applies_to(account, robot_id))
            .collect();
        applying.sort_by_key(|other| other.rank());
        let mut chosen = Chosen {
            endpoint: self.endpoint.as_ref(),
            timeout: self.timeout,
            fallback: &self.fallback,
        };
        for other in applying {
            if let Some(whom) = &other.endpoint {
                chosen.endpoint = whom.service();
            }
            chosen.timeout = other.timeout.unwrap_or(chosen.timeout);
            chosen.fallback = other.fallback.as_ref().unwrap_or(chosen.fallback);
        }
        chosen
    }
}

impl Override {
    fn applies_to(&self, account: &str, robot_id: &str) -> bool {
        let is = |wanted: &Option<String>, given| wanted.as_deref().is_none_or(|w| w == given);
        is(&self.account, account) && is(&self.robot_id, robot_id)
    }

    fn rank(&self) -> u8 {
        u8::from(self.robot_id.is_some()) * 2 + u8::from(self.account.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_comes_from_the_most_specific_that_has_it() {
        let ms = Duration::from_millis;
        let endpoint = |text: &str| Endpoint::parse(text).ok();
        let other = |account: Option<&str>, robot: Option<&str>| Override {
            account: account.map(Into::into),
            robot_id: robot.map(Into::into),
            ..Override::default()
        };
        let fallback = BTreeMap::from([("a".into(), "b".into())]);
        let options = Options {
            endpoint: endpoint("http://all"),
            overrides: vec![
                Override {
                    timeout: Some(ms(1)),
                    ..other(Some("acme"), Some("7"))
                },
                Override {
                    timeout: Some(ms(2)),
                    endpoint: Some(Whom::Nobody),
                    ..other(None, Some("7"))
                },
                Override {
                    timeout: Some(ms(3)),
                    endpoint: endpoint("http://acme").map(Whom::Service),
                    fallback: Some(fallback.clone()),
                    ..other(Some("acme"), None)
                },
            ],
            ..Options::default()
        };
        let acme = endpoint("http://acme");
        let all = endpoint("http://all");
        let none = BTreeMap::new();
        let chosen = |account, robot| {
            let chosen = options.for_robot(account, robot);
            (chosen.endpoint, chosen.timeout, chosen.fallback)
        };
        assert_eq!(chosen("acme", "7"), (None, ms(1), &fallback));
        assert_eq!(chosen("other", "7"), (None, ms(2), &none));
        assert_eq!(chosen("acme", "8"), (acme.as_ref(), ms(3), &fallback));
        assert_eq!(chosen("acme", ""), (acme.as_ref(), ms(3), &fallback));
        assert_eq!(chosen("other", ""), (all.as_ref(), ms(400), &none));
        assert_eq!(options.endpoints().count(), 2);
    }
}
