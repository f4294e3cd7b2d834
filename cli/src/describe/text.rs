//! Labelled, indented text. Pure.

/// A line, or a heading with what is below it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// "Label:   value"; further values follow below the first.
    Field(String, Vec<String>),
    /// "Label:" with entries below it, indented.
    Section(String, Vec<Entry>),
    /// Text as it is.
    Line(String),
}

impl Entry {
    /// A label with a value; "<none>" when it is empty.
    pub fn field(label: &str, value: impl Into<String>) -> Self {
        Self::Field(label.to_owned(), vec![crate::table::or_none(&value.into())])
    }

    /// A label with a value a line; "<none>" for no values.
    pub fn fields(label: &str, values: impl IntoIterator<Item = String>) -> Self {
        let values: Vec<String> = values.into_iter().collect();
        if values.is_empty() {
            Self::field(label, "")
        } else {
            Self::Field(label.to_owned(), values)
        }
    }

    /// A heading with entries; "<none>" beside it when there are none.
    pub fn section(label: &str, entries: Vec<Self>) -> Self {
        if entries.is_empty() {
            Self::field(label, "")
        } else {
            Self::Section(label.to_owned(), entries)
        }
    }

    /// Text as it is.
    pub fn line(text: &str) -> Self {
        Self::Line(text.to_owned())
    }

    /// The lines of a table.
    pub fn table(label: &str, table: &crate::table::Table) -> Self {
        let lines = if table.is_empty() {
            String::new()
        } else {
            table.render(true)
        };
        Self::section(label, lines.lines().map(Self::line).collect())
    }
}

/// The entries as text; values of one level are aligned.
pub fn render(entries: &[Entry]) -> String {
    let mut text = String::new();
    level(entries, 0, &mut text);
    text
}

fn level(entries: &[Entry], indent: usize, text: &mut String) {
    let width = entries.iter().filter_map(|entry| match entry {
        Entry::Field(label, _) => Some(label.chars().count() + 1),
        _ => None,
    });
    let width = width.max().unwrap_or(0) + 2;
    let mut line = |indent: usize, content: &str| {
        text.extend(std::iter::repeat_n(' ', indent));
        text.push_str(content);
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    };
    for entry in entries {
        match entry {
            Entry::Line(content) => line(indent, content),
            Entry::Field(label, values) => {
                for (index, value) in values.iter().enumerate() {
                    let label = if index == 0 { format!("{label}:") } else { String::new() };
                    line(indent, &format!("{label:width$}{value}"));
                }
            }
            Entry::Section(label, inner) => {
                line(indent, &format!("{label}:"));
                let mut below = String::new();
                level(inner, indent + 2, &mut below);
                below.lines().for_each(|content| line(0, content));
            }
        }
    }
}
