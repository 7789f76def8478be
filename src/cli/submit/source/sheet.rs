//! The rows of a sheet of a workbook (XLSX).

use std::fs::File;
use std::io::BufReader;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, bail};
use calamine::{Cell, DataRef, ExcelDateTime, Reader, Xlsx, open_workbook};

use super::Line;

type Workbook = Xlsx<BufReader<File>>;

/// The name of the sheet that is wanted, or of the first one.
pub fn find(path: &Path, wanted: Option<&str>) -> anyhow::Result<String> {
    let book: Workbook = open_workbook(path).context("not readable as a workbook")?;
    let names = book.sheet_names();
    let Some(wanted) = wanted else {
        return names.into_iter().next().context("it has no sheets");
    };
    if names.iter().any(|name| name == wanted) {
        return Ok(wanted.to_owned());
    }
    bail!("no sheet {wanted:?}, there are: {}", names.join(", "))
}

/// Hands out every row that is not blank until `take` has enough. Cells are read one by one; in
/// memory are the workbook's texts, each of them once.
pub fn read(
    path: &Path,
    sheet: &str,
    mut take: impl FnMut(Line) -> ControlFlow<()>,
) -> anyhow::Result<()> {
    let mut book: Workbook = open_workbook(path).context("not readable as a workbook")?;
    let mut cells = book.worksheet_cells_reader(sheet)?;
    let mut line = empty(0);
    let mut width = 0;
    loop {
        let cell = cells.next_cell()?;
        let (row, column) = cell.as_ref().map_or((0, 0), Cell::get_position);
        let number = u64::from(row) + 1;
        if cell.is_none() || number != line.number {
            let mut whole = std::mem::replace(&mut line, empty(number));
            if !whole.is_blank() {
                // A row has no cells after its last value; all are as wide as the first.
                width = if width == 0 {
                    whole.values.len()
                } else {
                    width
                };
                whole
                    .values
                    .resize(whole.values.len().max(width), String::new());
                if take(whole).is_break() {
                    return Ok(());
                }
            }
        }
        let Some(cell) = cell else { return Ok(()) };
        let column = column as usize;
        if line.values.len() <= column {
            line.values.resize(column + 1, String::new());
        }
        if let DataRef::Error(error) = cell.get_value() {
            line.fault = Some(format!("column {} holds the error {error}", column + 1));
        }
        line.values[column] = text(cell.get_value());
    }
}

fn empty(number: u64) -> Line {
    Line {
        number,
        values: Vec::new(),
        fault: None,
    }
}

/// A cell as a person reads it; dates by ISO 8601.
fn text(value: &DataRef) -> String {
    match value {
        DataRef::Int(number) => number.to_string(),
        DataRef::Float(number) => of_number(*number),
        DataRef::String(text) | DataRef::DateTimeIso(text) | DataRef::DurationIso(text) => {
            text.clone()
        }
        DataRef::SharedString(text) => (*text).to_owned(),
        DataRef::Bool(true) => "TRUE".to_owned(),
        DataRef::Bool(false) => "FALSE".to_owned(),
        DataRef::DateTime(time) => of_time(time),
        DataRef::Error(error) => error.to_string(),
        DataRef::Empty => String::new(),
    }
}

/// All digits, never an exponent; to the 15 digits that Excel itself keeps.
fn of_number(number: f64) -> String {
    let rounded = format!("{number:.14e}").parse().unwrap_or(number);
    // Adding 0 makes 0 of −0.
    format!("{}", rounded + 0.0)
}

fn of_time(time: &ExcelDateTime) -> String {
    if time.is_duration() {
        let seconds = (time.as_f64() * 86_400.0).round();
        let (hours, seconds) = ((seconds / 3600.0).trunc(), seconds % 3600.0);
        return format!(
            "{hours}:{:02}:{:02}",
            (seconds / 60.0).trunc(),
            seconds % 60.0
        );
    }
    let (year, month, day, hour, minute, second, _) = time.to_ymd_hms_milli();
    let date = format!("{year:04}-{month:02}-{day:02}");
    let clock = format!("{hour:02}:{minute:02}:{second:02}");
    match time.as_f64() {
        of_day if of_day < 1.0 => clock,
        days if days.fract() == 0.0 => date,
        _ => format!("{date} {clock}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_keeps_all_of_its_digits() {
        assert_eq!(of_number(13_800_000_000.0), "13800000000");
        assert_eq!(of_number(8_613_800_000_000.0), "8613800000000");
        assert_eq!(of_number(0.1 + 0.2), "0.3");
        assert_eq!(of_number(-0.0), "0");
        assert_eq!(of_number(1e21), "1000000000000000000000");
        assert_eq!(of_number(-12.5), "-12.5");
    }
}
