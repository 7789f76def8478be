//! The subscriptions by name: created, changed, moved, deleted; what of each is kept, and what of
//! its dead letters is left.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime};

use prost::Message;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::Result;
use super::keeper::{Keeper, failed};
use super::member::EmbeddedMember;
use super::saved::{self, Config, Dead, Progress};
use super::subscription::{Common, Subscription};
use crate::push::{EventId, Position};
use crate::store::embedded::{EmbeddedLog, OpenError};
use crate::store::subscriptions::{
    AckOutcome, Change, DeadLetter, Info, Nack, OWN_NAMES, Spec, SubscriptionError, Window,
};
use crate::store::{PushLog, ReadError, ReadLimit};

/// The subscriptions of a log, by name.
pub(super) struct Registry {
    common: Arc<Common>,
    named: RwLock<BTreeMap<String, Arc<Subscription>>>,
    max: usize,
    /// Held while subscriptions are created, changed as a whole, or deleted.
    changing: Mutex<()>,
    /// Held while it is found out which dead letters are gone, so that each is counted once.
    losing: Mutex<()>,
    _keeper: AbortOnDropHandle<()>,
}

/// Dead letters are looked through so many at a time, and redriven so many at once.
const SLICE: usize = 1000;
const REDRIVE: usize = 10_000;

impl Registry {
    pub async fn open(log: Arc<EmbeddedLog>, max: usize) -> std::result::Result<Self, OpenError> {
        let path = log.shared.options.path.clone();
        let keeper = Arc::new(Keeper::default());
        let common = Arc::new(Common {
            log: log.clone(),
            keeper: keeper.clone(),
            origin: Instant::now(),
        });
        let mut named = BTreeMap::new();
        let kept = log.kept_range(saved::config_range(), usize::MAX).await;
        for (key, value) in kept.map_err(|error| damaged(&path, &error))? {
            let subscription = load(&common, &key, &value).await;
            let (name, subscription) = subscription.map_err(|error| damaged(&path, &*error))?;
            named.insert(name, Arc::new(subscription));
        }
        Ok(Self {
            common,
            named: RwLock::new(named),
            max,
            changing: Mutex::new(()),
            losing: Mutex::new(()),
            _keeper: AbortOnDropHandle::new(tokio::spawn(keeper.run(log))),
        })
    }

    fn find(&self, name: &str) -> Result<Arc<Subscription>> {
        let found = self.named().get(name).cloned();
        found.ok_or_else(|| SubscriptionError::NotFound(name.to_owned()))
    }

    fn named(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<Subscription>>> {
        self.named.read().unwrap_or_else(PoisonError::into_inner)
    }

    async fn save(&self, subscription: &Arc<Subscription>) -> Result<()> {
        self.common.keeper.save(subscription).await
    }

    async fn save_if_done(
        &self,
        subscription: &Arc<Subscription>,
        outcomes: &[AckOutcome],
    ) -> Result<()> {
        if outcomes.contains(&AckOutcome::Ok) {
            self.save(subscription).await?;
        }
        Ok(())
    }

    /// Looks at a subscription, after what retention took from it has been counted.
    async fn look(&self, subscription: &Arc<Subscription>) -> Result<Info> {
        if let Some(earliest) = subscription.lose_retired() {
            let _losing = self.losing.lock().await;
            self.save(subscription).await?;
            let range = saved::dead_range(subscription.key(), 0).start
                ..saved::dead_key(subscription.key(), earliest.next().0);
            let kept = self.common.log.kept_range(range, usize::MAX).await?;
            let gone = kept.iter().filter_map(|(key, _)| saved::dead_number(key));
            let gone: Vec<_> = gone.collect();
            if !gone.is_empty() {
                subscription.lose_dead(&gone);
                self.save(subscription).await?;
            }
        }
        Ok(subscription.info())
    }

    /// The numbers of a subscription's dead letters from one on, `limit` at most.
    async fn dead_numbers(&self, key: u64, from: u64, limit: usize) -> Result<Vec<u64>> {
        let range = saved::dead_range(key, from);
        let kept = self.common.log.kept_range(range, limit).await?;
        let numbers = kept.iter().filter_map(|(key, _)| saved::dead_number(key));
        Ok(numbers.collect())
    }

    /// Those of these events that are dead letters of the subscription.
    async fn dead_among(&self, key: u64, ids: &[EventId]) -> Result<Vec<u64>> {
        let mut dead = Vec::new();
        let distinct: HashSet<_> = ids.iter().collect();
        for id in distinct {
            if let Some(position) = self.common.log.find(*id).await?
                && self.dead_numbers(key, position.0, 1).await? == [position.0]
            {
                dead.push(position.0);
            }
        }
        Ok(dead)
    }

    pub async fn create(&self, name: &str, spec: Spec, after: Position) -> Result<()> {
        let _changing = self.changing.lock().await;
        self.common.keeper.check_open()?;
        if self.named().contains_key(name) {
            return Err(SubscriptionError::AlreadyExists(name.to_owned()));
        }
        let is_own = |name: &str| name.starts_with(OWN_NAMES);
        let count = self.named().keys().filter(|name| !is_own(name)).count();
        if count >= self.max && !is_own(name) {
            return Err(SubscriptionError::TooMany(self.max));
        }
        let config = Config::new(rand::random(), self.common.wall_ms(), &spec);
        let progress = Progress {
            floor: after.0,
            ..Progress::default()
        };
        let writes = vec![
            saved::set(saved::config_key(name), &config),
            saved::set(saved::progress_key(config.key), &progress),
        ];
        self.common.log.keep(writes).await.map_err(failed)?;
        let name = name.to_owned();
        let subscription =
            Subscription::new(name.clone(), &config, progress, 0, self.common.clone());
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        named.insert(name, Arc::new(subscription));
        Ok(())
    }

    pub async fn get(&self, name: &str) -> Result<Info> {
        self.look(&self.find(name)?).await
    }

    pub async fn list(&self, after: &str, limit: usize) -> Result<Vec<Info>> {
        let following: Vec<_> = self
            .named()
            .range::<str, _>((Bound::Excluded(after), Bound::Unbounded))
            .take(limit)
            .map(|(_, subscription)| subscription.clone())
            .collect();
        let mut infos = Vec::new();
        for subscription in following {
            infos.push(self.look(&subscription).await?);
        }
        Ok(infos)
    }

    pub async fn update(&self, name: &str, change: Change) -> Result<Info> {
        let _changing = self.changing.lock().await;
        self.common.keeper.check_open()?;
        let subscription = self.find(name)?;
        let spec = change.apply(&subscription.spec());
        let config = subscription.config(&spec);
        let write = saved::set(saved::config_key(name), &config);
        self.common.log.keep(vec![write]).await.map_err(failed)?;
        subscription.adopt(spec);
        Ok(subscription.info())
    }

    pub async fn delete(&self, name: &str) -> Result<()> {
        let _changing = self.changing.lock().await;
        self.common.keeper.check_open()?;
        let subscription = self.find(name)?;
        let key = subscription.key();
        let write = saved::unset(saved::config_key(name));
        self.common.log.keep(vec![write]).await.map_err(failed)?;
        self.named
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        subscription.end(&SubscriptionError::NotFound(name.to_owned()));
        // What is left of it harms nobody if this fails: its key is never used again.
        let mut rest = vec![saved::unset(saved::progress_key(key))];
        let dead = self.dead_numbers(key, 0, usize::MAX).await?;
        rest.extend(
            dead.iter()
                .map(|number| saved::unset(saved::dead_key(key, *number))),
        );
        self.common.log.keep(rest).await.map_err(failed)
    }

    pub async fn seek(&self, name: &str, after: Position) -> Result<()> {
        let _changing = self.changing.lock().await;
        let subscription = self.find(name)?;
        // What was parked a moment ago is to be found among the others.
        self.save(&subscription).await?;
        let from = after.next().0;
        let dead = self
            .dead_numbers(subscription.key(), from, usize::MAX)
            .await?;
        subscription.seek(after, &dead);
        self.save(&subscription).await
    }

    pub fn join(&self, name: &str, window: Window) -> Result<EmbeddedMember> {
        let subscription = self.find(name)?;
        let (id, notify) = subscription.join(window)?;
        Ok(EmbeddedMember {
            subscription,
            id,
            notify,
            is_broken: false,
        })
    }

    pub async fn ack(&self, name: &str, ids: &[String]) -> Result<Vec<AckOutcome>> {
        let subscription = self.find(name)?;
        let outcomes = subscription.ack(ids)?;
        self.save_if_done(&subscription, &outcomes).await?;
        Ok(outcomes)
    }

    pub async fn nack(&self, name: &str, ids: &[String], how: Nack) -> Result<Vec<AckOutcome>> {
        let subscription = self.find(name)?;
        let outcomes = subscription.nack(ids, &how)?;
        self.save_if_done(&subscription, &outcomes).await?;
        Ok(outcomes)
    }

    pub fn extend(
        &self,
        name: &str,
        ids: &[String],
        by: Option<Duration>,
    ) -> Result<Vec<AckOutcome>> {
        self.find(name)?.extend(ids, by)
    }

    pub async fn dead_letters(
        &self,
        name: &str,
        after: Position,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let subscription = self.find(name)?;
        self.save(&subscription).await?;
        let _losing = self.losing.lock().await;
        let (mut letters, mut gone) = (Vec::new(), Vec::new());
        let mut from = after.next().0;
        while letters.len() < limit {
            let range = saved::dead_range(subscription.key(), from);
            let kept = self
                .common
                .log
                .kept_range(range, limit - letters.len())
                .await?;
            let Some(last) = kept.last().and_then(|(key, _)| saved::dead_number(key)) else {
                break;
            };
            from = last + 1;
            for (key, value) in kept {
                let Some(number) = saved::dead_number(&key) else {
                    continue;
                };
                match self.dead_letter(number, &value).await? {
                    Some(letter) => letters.push(letter),
                    None => gone.push(number),
                }
            }
        }
        if !gone.is_empty() {
            subscription.lose_dead(&gone);
            self.save(&subscription).await?;
        }
        Ok(letters)
    }

    /// A dead letter with its entry; `None`: the log no longer holds it.
    async fn dead_letter(&self, number: u64, value: &[u8]) -> Result<Option<DeadLetter>> {
        const ONE: ReadLimit = ReadLimit {
            entries: 1,
            bytes: 1,
        };
        let read = self.common.log.read(Position(number).before(), ONE).await;
        let entry = match read {
            Ok(batch) => batch.entries.into_iter().next(),
            Err(ReadError::Expired { .. } | ReadError::Damaged { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let dead = Dead::decode(value).unwrap_or_default();
        Ok(entry.map(|entry| DeadLetter {
            entry,
            attempts: dead.attempts,
            reason: dead.reason,
            parked_at: SystemTime::UNIX_EPOCH + Duration::from_millis(dead.parked_at_ms),
        }))
    }

    pub async fn redrive(&self, name: &str, ids: Option<&[EventId]>) -> Result<u64> {
        let _changing = self.changing.lock().await;
        let subscription = self.find(name)?;
        self.save(&subscription).await?;
        let key = subscription.key();
        let mut redriven = 0;
        loop {
            let dead = match ids {
                Some(ids) => self.dead_among(key, ids).await?,
                None => self.dead_numbers(key, 0, REDRIVE).await?,
            };
            let slice = subscription.redrive(&dead);
            self.save(&subscription).await?;
            redriven += slice;
            if ids.is_some() || slice < REDRIVE as u64 {
                return Ok(redriven);
            }
        }
    }

    pub async fn close(&self) {
        for subscription in self.named().values() {
            subscription.end(&SubscriptionError::Closed);
        }
        self.common.keeper.close().await;
    }
}

type LoadError = Box<dyn std::error::Error + Send + Sync>;

/// Reads a subscription back.
async fn load(
    common: &Arc<Common>,
    key: &[u8],
    value: &[u8],
) -> std::result::Result<(String, Subscription), LoadError> {
    let name = saved::name(key).ok_or("a subscription's name is not readable")?;
    let config = Config::decode(value)?;
    let log = &common.log;
    let progress_key = saved::progress_key(config.key);
    let mut end = progress_key.clone();
    end.push(0);
    let kept = log.kept_range(progress_key..end, 1).await?;
    let progress = match kept.first() {
        Some((_, value)) => Progress::decode(value.as_slice())?,
        None => return Err(format!("how far subscription {name} has come is missing").into()),
    };
    let mut dead_letters = 0;
    let mut from = 0;
    loop {
        let slice = log
            .kept_range(saved::dead_range(config.key, from), SLICE)
            .await?;
        dead_letters += slice.len() as u64;
        match slice.last().and_then(|(key, _)| saved::dead_number(key)) {
            Some(last) if slice.len() == SLICE => from = last + 1,
            _ => break,
        }
    }
    let name = name.to_owned();
    let subscription = Subscription::new(
        name.clone(),
        &config,
        progress,
        dead_letters,
        common.clone(),
    );
    Ok((name, subscription))
}

fn damaged(path: &Path, error: &(dyn std::error::Error + 'static)) -> OpenError {
    OpenError::Damaged {
        path: path.into(),
        detail: error.to_string(),
    }
}
