//! The tokens that the sandbox has issued.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::code::{BAD_CREDENTIALS, Refusal};
use super::params::Params;
use super::world::World;

/// Tokens that are still good, and how many there ever were.
#[derive(Default)]
pub(super) struct Tokens {
    live: Vec<(String, Instant)>,
    pub issued: u64,
    pub refused: u64,
}

impl Tokens {
    /// Tokens are the one thing that no seed decides: a restarted sandbox must
    /// not take a token of its former life.
    fn issue(&mut self, life: Duration, kill_old: bool) -> String {
        let now = Instant::now();
        if kill_old {
            self.live.clear();
        }
        self.live.retain(|(_, end)| *end > now);
        let token = format!("{:032x}", rand::random::<u128>());
        self.live.push((token.clone(), now + life));
        self.issued += 1;
        token
    }

    /// Whether the token is good; a refusal is counted.
    pub fn admit(&mut self, token: Option<&str>) -> bool {
        let now = Instant::now();
        let good = token.is_some_and(|token| {
            self.live
                .iter()
                .any(|(live, end)| live == token && *end > now)
        });
        if !good {
            self.refused += 1;
        }
        good
    }

    /// Refuses every token issued until now.
    pub fn expire(&mut self) -> usize {
        let count = self.live.len();
        self.live.clear();
        count
    }

    pub fn live(&self) -> usize {
        let now = Instant::now();
        self.live.iter().filter(|(_, end)| *end > now).count()
    }
}

/// Answers a request for a token.
pub(super) fn issue(world: &World, params: &Params) -> Result<Value, Refusal> {
    let key = params.text("app_key")?;
    let secret = params.text("app_secret")?;
    let good = world.config.credentials.as_ref();
    if good.is_some_and(|(good_key, good_secret)| key != good_key || secret != good_secret) {
        return Err(BAD_CREDENTIALS.because("app_key and app_secret are not this sandbox's"));
    }
    let life = world.config.token_life;
    let token = world.tokens().issue(life, world.config.kill_old_tokens);
    Ok(json!({ "token": token, "time_expire": life.as_secs() }))
}
