//! File descriptors: as many as the system gives, and some kept back for what must go on.
//!
//! The database opens files while it works, and an operator needs the admin port most when
//! connections run out.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// The descriptors kept back: for the store, the admin port, the platform and recordings.
const RESERVE: usize = 256;
/// The connections of the push listener that the rest is shared with.
const PUSH_CONNECTIONS: usize = 4096;

/// Raises the soft limit of descriptors to the hard one; the limit then, if there is one.
fn raise() -> Option<usize> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let limit = if current == maximum {
        current
    } else {
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => maximum,
            Err(error) => {
                tracing::warn!(%error, "the limit of open files could not be raised");
                current
            }
        }
    };
    limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Lowers the bound of connections to what the system's limit of open files allows.
pub(super) fn fit(config: &mut Config) {
    let Some(limit) = raise() else { return };
    let wanted = config.grpc.max_connections;
    let [allowed, _] = share(limit, [wanted, PUSH_CONNECTIONS]);
    if allowed < wanted {
        tracing::warn!(
            limit,
            setting = "grpc.max_connections",
            wanted,
            allowed,
            "the limit of open files (ulimit -n) allows fewer connections"
        );
        config.grpc.max_connections = allowed;
    }
}

/// The bounds of two listeners that fit into a limit beside the reserve, in proportion.
fn share(limit: usize, wanted: [usize; 2]) -> [usize; 2] {
    let room = limit - RESERVE.min(limit / 2);
    let all = wanted[0].saturating_add(wanted[1]);
    if all <= room {
        return wanted;
    }
    wanted.map(|one| (one.saturating_mul(room) / all).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_the_reserve_and_share_the_rest_in_proportion() {
        for (limit, wanted, expected) in [
            (65_536, [10_000, 4096], [10_000, 4096]),
            (1024, [10_000, 4096], [544, 223]),
            (1024, [100, 100], [100, 100]),
            (200, [10_000, 4096], [70, 29]),
            (4, [1_000_000, 1], [1, 1]),
        ] {
            assert_eq!(share(limit, wanted), expected, "{limit}");
        }
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        raise();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
