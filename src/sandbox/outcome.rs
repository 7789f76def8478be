//! How a call goes: by its number's last digits, as the module's docs have it,
//! or else by the seed.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::task::Row;

/// One call's course. Times are milliseconds as the called person lives them.
pub(super) struct Outcome {
    pub answered: bool,
    pub result: i32,
    pub desc: &'static str,
    pub ring_ms: u64,
    pub talk_ms: u64,
    /// For what else is left to chance about this call.
    pub rng: u64,
}

/// Documented results of calls that somebody answered.
const ANSWERED: [(i32, &str); 5] = [
    (0, "成功"),
    (15, "客户接听后并主动挂机"),
    (16, "客户掉线"),
    (18, "接通"),
    (19, "转人工"),
];

/// Documented results of calls that nobody answered. 22 is 来电提醒 in the one
/// document and 呼叫转移 in the other; both appear.
const UNANSWERED: [(i32, &str); 17] = [
    (20, "用户未接"),
    (2, "正在通话中"),
    (3, "无法接通"),
    (4, "关机"),
    (5, "用户正忙"),
    (6, "空号"),
    (7, "号码错误"),
    (8, "用户拒接"),
    (9, "停机"),
    (22, "来电提醒"),
    (22, "呼叫转移"),
    (23, "呼入限制"),
    (25, "呼叫转移"),
    (26, "网络故障"),
    (27, "呼出受限"),
    (28, "线路故障"),
    (-1, "超时"),
];

impl Outcome {
    /// The same seed, row and try always go the same way, in whatever order
    /// the calls are made.
    pub fn of(seed: u64, row: &Row) -> Self {
        let mut rng = StdRng::seed_from_u64(mix(seed, row.data_id.unsigned_abs(), row.tries));
        let number = row.values.first().map_or("", String::as_str);
        let (result, desc) = forced(number, row.tries).unwrap_or_else(|| chance(&mut rng));
        let answered = ANSWERED.iter().any(|(known, _)| *known == result);
        Self {
            answered,
            result,
            desc,
            ring_ms: rng.random_range(1_500..12_000),
            talk_ms: if answered {
                rng.random_range(6_000..40_000)
            } else {
                0
            },
            rng: rng.random(),
        }
    }
}

fn forced(number: &str, tries: u32) -> Option<(i32, &'static str)> {
    let last = number.get(number.len().checked_sub(4)?..)?;
    let result = match last {
        "0099" => -1,
        "0101" if tries == 0 => 20,
        "0001" | "0101" => 0,
        _ => last.strip_prefix("00")?.parse().ok()?,
    };
    ANSWERED
        .iter()
        .chain(&UNANSWERED)
        .find(|(known, _)| *known == result)
        .copied()
}

fn chance(rng: &mut StdRng) -> (i32, &'static str) {
    if rng.random_bool(0.7) {
        // Most answered calls are a plain success.
        return ANSWERED[rng
            .random_range(0..ANSWERED.len() * 2)
            .saturating_sub(ANSWERED.len())];
    }
    UNANSWERED[rng.random_range(0..UNANSWERED.len())]
}

/// Spreads the inputs over all bits, so that neighbouring rows differ.
fn mix(seed: u64, id: u64, tries: u32) -> u64 {
    let mut x = seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(tries) << 56);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: &str, data_id: i64, tries: u32) -> Row {
        let values = vec![number.to_owned()].into();
        Row {
            data_id,
            index: 1,
            head: Vec::new().into(),
            values,
            tries,
        }
    }

    #[test]
    fn last_digits_force_the_result() {
        let result = |number, tries| Outcome::of(7, &row(number, 1, tries)).result;
        assert_eq!(result("13000000001", 0), 0);
        assert_eq!(result("13000000002", 0), 2);
        assert_eq!(result("19900000001", 0), 0);
    }

    #[test]
    fn other_numbers_are_answered_in_about_seven_calls_of_ten() {
        let answered = (0..1000)
            .filter(|id| Outcome::of(1, &row("15556985227", *id, 0)).answered)
            .count();
        assert!((640..760).contains(&answered), "{answered} of 1000");
    }

    #[test]
    fn the_same_seed_gives_the_same_call() {
        let one = Outcome::of(5, &row("15556985227", 9, 1));
        let two = Outcome::of(5, &row("15556985227", 9, 1));
        assert_eq!(
            (one.result, one.ring_ms, one.rng),
            (two.result, two.ring_ms, two.rng)
        );
    }
}
