//! The platform's return codes.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// A return code of the platform, other than success.
        /// Source: API document, 返回码参照, and what was seen since.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $name,)*
            /// A code that no document names, as the platform sent it.
            Other(String),
        }

        impl Code {
            /// Every code that has a name.
            pub const KNOWN: &[Self] = &[$(Self::$name,)*];

            /// Reads a code as the platform writes it, a number or text.
            pub(crate) fn parse(text: &str) -> Self {
                match text.trim() {
                    $(stringify!($number) => Self::$name,)*
                    other => Self::Other(other.to_owned()),
                }
            }

            /// The code as the platform writes it.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$name => stringify!($number),)*
                    Self::Other(text) => text,
                }
            }
        }
    };
}

codes! {
    /// The token is not valid (无效的token请求).
    InvalidToken = 10001,
    /// The token may not do this (该token无请求权限).
    TokenNotAuthorized = 10002,
    /// Wrong application id (错误的app_id).
    WrongAppId = 10003,
    /// Busy, try later (服务忙，请稍后再试).
    Busy = 10004,
    /// A parameter is wrong (输入参数不正确).
    InvalidParameter = 10005,
    /// The interface is under maintenance (接口维护).
    UnderMaintenance = 10020,
    /// The interface is switched off (接口停用).
    OperationDisabled = 10021,
    /// Wrong key or secret (账号或密码错误).
    BadCredentials = 200101,
    /// The data do not belong together (错误的数据关系).
    DataRelation = 200200,
    /// Wrong enterprise id (错误的企业id).
    WrongBusinessId = 200201,
    /// No such task (错误的任务id).
    TaskNotFound = 200202,
    /// A number that cannot be called (错误的外呼号码).
    BadPhoneNumber = 200203,
    /// No such robot (错误的话术id).
    RobotNotFound = 200204,
    /// No such voice (错误的话术发音id).
    BadVoice = 200205,
    /// Wrong speed (错误的语速).
    BadSpeed = 200206,
    /// Not enough balance (余额不足).
    InsufficientBalance = 200209,
    /// Wrong file format (错误的文件格式).
    BadFileFormat = 200210,
    /// A file of more than 10 MB (文件上传超过限定大小10m); of no known operation.
    FileTooLarge = 200211,
    /// The rows do not fit the robot's columns (错误的数据，与话术动态信息不匹配).
    RowMismatch = 200212,
    /// Too many rows (上传的外呼数据量超过限制).
    TooManyRows = 200213,
    /// Outside working hours; not in the documents.
    OutsideWorkingHours = 200222,
    /// The line serves another task (号码被占用).
    NumberOccupied = 3030002,
    /// The task is finished (任务已经完成).
    TaskCompleted = 3010101,
    /// The task was deleted (任务已经删除).
    TaskDeleted = 3010102,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_code_reads_back_as_itself() {
        for code in Code::KNOWN {
            assert_eq!(&Code::parse(code.as_str()), code);
        }
        assert_eq!(Code::parse("999999"), Code::Other("999999".to_owned()));
    }
}
