//! How a call came out: from the words of its result first, as the two documents' tables of codes
//! disagree. Source: 外呼结果说明 of both, words and remarks.

use crate::proto::{CallOutcome, CallRecord, TaskResult};

/// The words that tell an outcome wherever they stand in the result's words, unless longer ones
/// of the table stand there too.
const WORDS: &[(&str, CallOutcome)] = &[
    ("客户接听后并主动挂机", CallOutcome::CustomerHungUp),
    ("主动挂机", CallOutcome::CustomerHungUp),
    ("转人工", CallOutcome::TransferredToAgent),
    ("客户掉线", CallOutcome::CustomerDropped),
    ("用户未接", CallOutcome::NotAnswered),
    ("无人接听", CallOutcome::NotAnswered),
    ("未接通", CallOutcome::NotAnswered),
    ("回铃音", CallOutcome::NotAnswered),
    ("彩铃", CallOutcome::NotAnswered),
    ("拒接", CallOutcome::Declined),
    ("用户正忙", CallOutcome::Busy),
    ("忙音", CallOutcome::Busy),
    ("静音", CallOutcome::Busy),
    ("正在通话中", CallOutcome::OnAnotherCall),
    ("通话中", CallOutcome::OnAnotherCall),
    ("来电提醒", CallOutcome::CallReminder),
    ("呼叫转移", CallOutcome::CallForwarding),
    ("无法接通", CallOutcome::Unreachable),
    ("无法接听", CallOutcome::Unreachable),
    ("关机", CallOutcome::PoweredOff),
    ("停机", CallOutcome::Suspended),
    ("暂停服务", CallOutcome::Suspended),
    ("欠费", CallOutcome::Suspended),
    ("空号", CallOutcome::VacantNumber),
    ("改号", CallOutcome::VacantNumber),
    ("号码错误", CallOutcome::WrongNumber),
    ("呼入限制", CallOutcome::InboundBarred),
    ("呼出受限", CallOutcome::OutboundRestricted),
    ("拨号方式不正确", CallOutcome::OutboundRestricted),
    ("网络故障", CallOutcome::NetworkFault),
    ("线路故障", CallOutcome::LineFault),
    ("网络忙", CallOutcome::LineFault),
    ("超时", CallOutcome::TimedOut),
];

/// The words that tell an outcome by themselves alone: with more around them they may mean the
/// opposite, as in 未接通.
const WHOLE: &[(&str, CallOutcome)] = &[
    ("成功", CallOutcome::Answered),
    ("接通", CallOutcome::Answered),
];

/// How the call of a record came out.
pub(super) fn of(record: &CallRecord, is_outbound: bool, answered: bool) -> CallOutcome {
    if let Some(outcome) = of_words(&record.task_result_desc) {
        return outcome;
    }
    let has_result = !record.task_result_code.is_empty() || !record.task_result_desc.is_empty();
    match (is_outbound || has_result, answered) {
        (true, _) => of_result(record.task_result()),
        (false, true) => CallOutcome::Answered,
        (false, false) => CallOutcome::NotAnswered,
    }
}

fn of_words(words: &str) -> Option<CallOutcome> {
    let whole = WHOLE.iter().find(|(known, _)| *known == words.trim());
    let longest = || {
        let found = WORDS.iter().filter(|(known, _)| words.contains(known));
        found.max_by_key(|(known, _)| known.len())
    };
    whole.or_else(longest).map(|(_, outcome)| *outcome)
}

fn of_result(result: TaskResult) -> CallOutcome {
    match result {
        TaskResult::Unspecified => CallOutcome::Unspecified,
        TaskResult::OnAnotherCall => CallOutcome::OnAnotherCall,
        TaskResult::Unreachable => CallOutcome::Unreachable,
        TaskResult::PoweredOff => CallOutcome::PoweredOff,
        TaskResult::Busy => CallOutcome::Busy,
        TaskResult::VacantNumber => CallOutcome::VacantNumber,
        TaskResult::WrongNumber => CallOutcome::WrongNumber,
        TaskResult::Declined => CallOutcome::Declined,
        TaskResult::Suspended => CallOutcome::Suspended,
        TaskResult::CustomerHungUp => CallOutcome::CustomerHungUp,
        TaskResult::CustomerDropped => CallOutcome::CustomerDropped,
        TaskResult::Connected | TaskResult::Success => CallOutcome::Answered,
        TaskResult::TransferredToAgent => CallOutcome::TransferredToAgent,
        TaskResult::NotAnswered => CallOutcome::NotAnswered,
        TaskResult::CallReminder => CallOutcome::CallReminder,
        TaskResult::InboundBarred => CallOutcome::InboundBarred,
        TaskResult::CallForwarding => CallOutcome::CallForwarding,
        TaskResult::NetworkFault => CallOutcome::NetworkFault,
        TaskResult::OutboundRestricted => CallOutcome::OutboundRestricted,
        TaskResult::LineFault => CallOutcome::LineFault,
        TaskResult::TimedOut => CallOutcome::TimedOut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables of both documents: code, words, the outcome of the two together, and of the
    /// code alone.
    const DOCUMENTED: &[(TaskResult, &str, CallOutcome)] = &[
        (TaskResult::TimedOut, "超时", CallOutcome::TimedOut),
        (TaskResult::Success, "成功", CallOutcome::Answered),
        (
            TaskResult::OnAnotherCall,
            "正在通话中",
            CallOutcome::OnAnotherCall,
        ),
        (
            TaskResult::Unreachable,
            "无法接通",
            CallOutcome::Unreachable,
        ),
        (TaskResult::PoweredOff, "关机", CallOutcome::PoweredOff),
        (TaskResult::Busy, "用户正忙", CallOutcome::Busy),
        (TaskResult::VacantNumber, "空号", CallOutcome::VacantNumber),
        (
            TaskResult::WrongNumber,
            "号码错误",
            CallOutcome::WrongNumber,
        ),
        (TaskResult::Declined, "用户拒接", CallOutcome::Declined),
        (TaskResult::Suspended, "停机", CallOutcome::Suspended),
        (
            TaskResult::CustomerHungUp,
            "客户接听后并主动挂机",
            CallOutcome::CustomerHungUp,
        ),
        (
            TaskResult::CustomerDropped,
            "客户掉线",
            CallOutcome::CustomerDropped,
        ),
        (TaskResult::Connected, "接通", CallOutcome::Answered),
        (
            TaskResult::TransferredToAgent,
            "转人工",
            CallOutcome::TransferredToAgent,
        ),
        (
            TaskResult::NotAnswered,
            "用户未接",
            CallOutcome::NotAnswered,
        ),
        (
            TaskResult::CallReminder,
            "来电提醒",
            CallOutcome::CallReminder,
        ),
        (
            TaskResult::InboundBarred,
            "呼入限制",
            CallOutcome::InboundBarred,
        ),
        (
            TaskResult::CallForwarding,
            "呼叫转移",
            CallOutcome::CallForwarding,
        ),
        (
            TaskResult::NetworkFault,
            "网络故障",
            CallOutcome::NetworkFault,
        ),
        (
            TaskResult::OutboundRestricted,
            "呼出受限",
            CallOutcome::OutboundRestricted,
        ),
        (TaskResult::LineFault, "线路故障", CallOutcome::LineFault),
    ];

    fn outbound(result: TaskResult, words: &str) -> CallOutcome {
        let record = CallRecord {
            task_result: result.into(),
            task_result_code: "n".into(),
            task_result_desc: words.into(),
            ..CallRecord::default()
        };
        of(&record, true, false)
    }

    #[test]
    fn every_documented_result_has_its_outcome_by_words_and_by_code() {
        for (result, words, outcome) in DOCUMENTED {
            assert_eq!(outbound(*result, words), *outcome, "{words}");
            assert_eq!(
                outbound(TaskResult::Unspecified, words),
                *outcome,
                "{words}"
            );
            assert_eq!(outbound(*result, ""), *outcome, "{result:?}");
            assert_eq!(outbound(*result, "新说法"), *outcome, "{result:?}");
        }
    }

    #[test]
    fn every_documented_remark_tells_the_same_as_its_row() {
        for (remark, outcome) in [
            ("无法接听", CallOutcome::Unreachable),
            ("短忙音", CallOutcome::Busy),
            ("长忙音", CallOutcome::Busy),
            ("静音", CallOutcome::Busy),
            ("改号", CallOutcome::VacantNumber),
            ("暂停服务", CallOutcome::Suspended),
            ("欠费", CallOutcome::Suspended),
            ("回铃音", CallOutcome::NotAnswered),
            ("彩铃", CallOutcome::NotAnswered),
            ("无人接听", CallOutcome::NotAnswered),
            ("呼叫转移失败", CallOutcome::CallForwarding),
            ("拨号方式不正确", CallOutcome::OutboundRestricted),
            ("网络忙", CallOutcome::LineFault),
        ] {
            assert_eq!(
                outbound(TaskResult::Unspecified, remark),
                outcome,
                "{remark}"
            );
        }
    }

    #[test]
    fn words_win_over_the_code_and_longer_words_over_shorter_ones() {
        for (result, words, outcome) in [
            (
                TaskResult::CallReminder,
                "呼叫转移",
                CallOutcome::CallForwarding,
            ),
            (TaskResult::NotAnswered, "用户拒接", CallOutcome::Declined),
            (TaskResult::Unspecified, "未接通", CallOutcome::NotAnswered),
            (
                TaskResult::Unspecified,
                "无人接听超时",
                CallOutcome::NotAnswered,
            ),
            (TaskResult::Success, " 成功 ", CallOutcome::Answered),
            (TaskResult::LineFault, "不成功", CallOutcome::LineFault),
        ] {
            assert_eq!(outbound(result, words), outcome, "{words}");
        }
        assert_eq!(
            outbound(TaskResult::Unspecified, ""),
            CallOutcome::Unspecified
        );
    }

    #[test]
    fn an_inbound_call_without_a_result_was_answered_or_not() {
        let record = CallRecord::default();
        assert_eq!(of(&record, false, true), CallOutcome::Answered);
        assert_eq!(of(&record, false, false), CallOutcome::NotAnswered);
    }
}
