//! The documented return codes with the platform's own texts, and a refusal
//! made of one of them.

/// A return code and the text that the documents give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code(pub i64, pub &'static str);

pub(super) const OK: Code = Code(0, "ok");
pub(super) const BAD_CREDENTIALS: Code = Code(200_101, "账号或密码错误");
pub(super) const BAD_TOKEN: Code = Code(10001, "无效的token请求");
pub(super) const BUSY: Code = Code(10004, "服务忙，请稍后再试");
pub(super) const BAD_PARAMETER: Code = Code(10005, "输入参数不正确");
pub(super) const DATA_RELATION: Code = Code(200_200, "错误的数据关系");
pub(super) const UNKNOWN_TASK: Code = Code(200_202, "错误的任务id");
pub(super) const BAD_NUMBER: Code = Code(200_203, "错误的外呼号码");
pub(super) const UNKNOWN_ROBOT: Code = Code(200_204, "错误的话术id");
pub(super) const UNKNOWN_VOICE: Code = Code(200_205, "错误的话术发音id");
pub(super) const BAD_SPEED: Code = Code(200_206, "错误的语速");
pub(super) const NO_BALANCE: Code = Code(200_209, "余额不足");
pub(super) const ROW_MISMATCH: Code = Code(200_212, "错误的数据，与话术动态信息不匹配");
pub(super) const TOO_MANY_ROWS: Code = Code(200_213, "上传的外呼数据量超过限制");
pub(super) const OUTSIDE_HOURS: Code = Code(200_222, "不在工作时段内");
pub(super) const LINE_OCCUPIED: Code = Code(3_030_002, "号码被占用");
pub(super) const TASK_FINISHED: Code = Code(3_010_101, "任务已经完成");
pub(super) const TASK_DELETED: Code = Code(3_010_102, "任务已经删除");

/// Why an operation was not carried out.
///
/// `reason` is the sandbox's own help for the person who debugs: it goes into
/// the `x-sandbox-reason` header and the request list, never into the body,
/// which stays as the documents have it.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub code: Code,
    pub reason: String,
}

impl Code {
    /// Refuses with this code because of `reason` (ASCII, for a header).
    pub fn because(self, reason: impl Into<String>) -> Refusal {
        Refusal {
            code: self,
            reason: reason.into(),
        }
    }
}
