//! Text tables with aligned columns, as kubectl's. Pure.

/// Spaces between two columns.
const GAP: usize = 3;

/// Rows below a line of column names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Table {
    headers: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(headers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            headers: headers.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with a cell for each column.
    pub fn push(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.headers.len(), "{:?} {row:?}", self.headers);
        self.rows.push(row);
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text; every line ends in a line break.
    pub fn render(&self, with_headers: bool) -> String {
        Layout::default().render(self, with_headers)
    }
}

/// Column widths that only grow, so that rows printed later stay aligned with the earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    widths: Vec<usize>,
}

impl Layout {
    /// A table as text in these widths, which grow to hold it.
    pub fn render(&mut self, table: &Table, with_headers: bool) -> String {
        let headers = with_headers.then_some(&table.headers);
        let lines: Vec<&Vec<String>> = headers.into_iter().chain(&table.rows).collect();
        for line in &lines {
            self.widths.resize(self.widths.len().max(line.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(*line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        lines.iter().map(|line| self.line(line)).collect()
    }

    fn line(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&self.widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + GAP - cell.chars().count()));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

/// "<none>" for nothing, as kubectl shows it.
pub fn or_none(text: &str) -> String {
    if text.is_empty() {
        "<none>".to_owned()
    } else {
        text.to_owned()
    }
}

/// "a=b,c=d", or "<none>".
pub fn pairs<'a>(map: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    or_none(
        &map.into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join(","),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_space() {
        let mut table = Table::new(["NAME", "AGE"]);
        table.push(vec!["a".into(), "5m".into()]);
        table.push(vec!["longer-name".into(), String::new()]);
        assert_eq!(table.render(true), "NAME          AGE\na             5m\nlonger-name\n");
        assert_eq!(table.render(false), "a             5m\nlonger-name\n");
    }

    #[test]
    fn later_rows_keep_the_widths_of_earlier_ones() {
        let mut layout = Layout::default();
        let mut table = Table::new(["NAME", "AGE"]);
        table.push(vec!["longer-name".into(), "5m".into()]);
        layout.render(&table, true);
        let mut later = Table::new(["NAME", "AGE"]);
        later.push(vec!["é".into(), "6m".into()]);
        assert_eq!(layout.render(&later, false), "é             6m\n");
    }
}
