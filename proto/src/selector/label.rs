//! Label selectors: "app=web,tier in (a, b),!canary".

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use super::{
    SelectorError,
    token::{Token, Tokens},
};
use crate::v1;

/// A conjunction of requirements; the empty one selects everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

/// What one label must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// What must hold for it.
    pub operator: Operator,
}

/// How a label is judged. As in Kubernetes, the negative ones hold for objects without the label too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operator {
    /// `key=value`
    Equals(String),
    /// `key!=value`
    NotEquals(String),
    /// `key in (a,b)`
    In(BTreeSet<String>),
    /// `key notin (a,b)`
    NotIn(BTreeSet<String>),
    /// `key`
    Exists,
    /// `!key`
    DoesNotExist,
}

impl LabelSelector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Reads the text form; empty text selects everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Ok(Self {
            requirements: Tokens::new(text).separated(|tokens| requirement(text, tokens))?,
        })
    }

    /// Every label of the map must be there with that value.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        let equals = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals(value.clone()),
        };
        Self {
            requirements: labels.iter().map(equals).collect(),
        }
    }

    /// Reads the structured form. The error's text is the offending expression.
    pub fn from_proto(selector: &v1::LabelSelector) -> Result<Self, SelectorError> {
        let mut read = Self::from_map(&selector.match_labels);
        for expression in &selector.match_expressions {
            let v1::LabelSelectorRequirement { key, operator, values } = expression;
            let refuse =
                |problem: &str| SelectorError::at(&format!("{key} {operator} ({})", values.join(",")), 0, problem);
            check_label_key(key).map_err(|problem| refuse(&problem))?;
            for value in values {
                check_label_value(value).map_err(|problem| refuse(&problem))?;
            }
            let set = || values.iter().cloned().collect();
            let operator = match (operator.as_str(), values.is_empty()) {
                ("In", false) => Operator::In(set()),
                ("NotIn", false) => Operator::NotIn(set()),
                ("Exists", true) => Operator::Exists,
                ("DoesNotExist", true) => Operator::DoesNotExist,
                ("In" | "NotIn", true) => return Err(refuse("needs at least one value")),
                ("Exists" | "DoesNotExist", false) => return Err(refuse("takes no values")),
                _ => return Err(refuse("unknown operator; known: In, NotIn, Exists, DoesNotExist")),
            };
            read.requirements.push(Requirement {
                key: key.clone(),
                operator,
            });
        }
        Ok(read)
    }

    /// The requirements, all of which must hold.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// True when it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// True when the labels meet every requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    /// True when the labels meet this requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::Equals(wanted) => value == Some(wanted),
            Operator::NotEquals(unwanted) => value != Some(unwanted),
            Operator::In(set) => value.is_some_and(|value| set.contains(value)),
            Operator::NotIn(set) => value.is_none_or(|value| !set.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

fn requirement(text: &str, tokens: &mut Tokens<'_>) -> Result<Requirement, SelectorError> {
    let refuse = |at: usize, problem: String| SelectorError::at(text, at, problem);
    let absent = tokens.peek().1 == Token::Not;
    if absent {
        tokens.next();
    }
    let key = match tokens.next() {
        (at, Token::Word(word)) => {
            check_label_key(word).map_err(|problem| refuse(at, problem))?;
            word.to_owned()
        }
        (at, other) => return Err(refuse(at, format!("expected a label key, found {}", other.describe()))),
    };
    if absent {
        return Ok(Requirement {
            key,
            operator: Operator::DoesNotExist,
        });
    }
    let operator = match tokens.peek() {
        (_, Token::End | Token::Comma) => Operator::Exists,
        (_, Token::Equals) => {
            tokens.next();
            Operator::Equals(value(text, tokens)?)
        }
        (_, Token::NotEquals) => {
            tokens.next();
            Operator::NotEquals(value(text, tokens)?)
        }
        (_, Token::Word("in")) => {
            tokens.next();
            Operator::In(values(text, tokens)?)
        }
        (_, Token::Word("notin")) => {
            tokens.next();
            Operator::NotIn(values(text, tokens)?)
        }
        (at, other) => {
            let problem = format!(
                "expected =, ==, !=, in, notin, \",\" or the end after \"{key}\", found {}",
                other.describe()
            );
            return Err(refuse(at, problem));
        }
    };
    Ok(Requirement { key, operator })
}

/// A value; nothing at all is the empty value.
fn value(text: &str, tokens: &mut Tokens<'_>) -> Result<String, SelectorError> {
    let (at, Token::Word(word)) = tokens.peek() else {
        return Ok(String::new());
    };
    tokens.next();
    check_label_value(word).map_err(|problem| SelectorError::at(text, at, problem))?;
    Ok(word.to_owned())
}

fn values(text: &str, tokens: &mut Tokens<'_>) -> Result<BTreeSet<String>, SelectorError> {
    match tokens.next() {
        (_, Token::Open) => {}
        (at, other) => {
            return Err(SelectorError::at(
                text,
                at,
                format!("expected \"(\", found {}", other.describe()),
            ));
        }
    }
    let mut set = BTreeSet::new();
    loop {
        set.insert(value(text, tokens)?);
        match tokens.next() {
            (_, Token::Comma) => {}
            (_, Token::Close) => return Ok(set),
            (at, other) => {
                return Err(SelectorError::at(
                    text,
                    at,
                    format!("expected \",\" or \")\", found {}", other.describe()),
                ));
            }
        }
    }
}

/// Checks a label (or annotation) key: an optional DNS subdomain and "/", then a name of at most 63 characters.
/// The error says what is wrong.
pub fn check_label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        let label = |part: &str| {
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            edge(part.chars().next())
                && edge(part.chars().last())
                && part
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        };
        if prefix.len() > 253 || !prefix.split('.').all(label) {
            return Err(format!("key \"{key}\": \"{prefix}\" is not a DNS subdomain"));
        }
    }
    if name.is_empty() {
        return Err(format!("key \"{key}\" has an empty name"));
    }
    check_name(name).map_err(|problem| format!("key \"{key}\": {problem}"))
}

/// Checks a label value: empty, or at most 63 letters, digits, "-", "_" and ".", with a letter or digit at both ends.
/// The error says what is wrong.
pub fn check_label_value(value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Ok(());
    }
    check_name(value).map_err(|problem| format!("value \"{value}\": {problem}"))
}

fn check_name(name: &str) -> Result<(), String> {
    if name.len() > 63 {
        return Err(format!("longer than 63 characters ({})", name.len()));
    }
    if let Some(bad) = name
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || "-_.".contains(*c)))
    {
        return Err(format!("'{bad}' is not allowed (letters, digits, \"-\", \"_\", \".\")"));
    }
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if edge(name.chars().next()) && edge(name.chars().last()) {
        Ok(())
    } else {
        Err("must begin and end with a letter or digit".to_owned())
    }
}

impl FromStr for LabelSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

impl From<LabelSelector> for String {
    fn from(selector: LabelSelector) -> Self {
        selector.to_string()
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let join = |set: &BTreeSet<String>| set.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        match &self.operator {
            Operator::Equals(value) => write!(f, "{key}={value}"),
            Operator::NotEquals(value) => write!(f, "{key}!={value}"),
            Operator::In(set) => write!(f, "{key} in ({})", join(set)),
            Operator::NotIn(set) => write!(f, "{key} notin ({})", join(set)),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn each_operator_selects_as_in_kubernetes() {
        let object = labels(&[("app", "web"), ("tier", "a"), ("empty", "")]);
        let cases = [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app = web , tier = a", true),
            ("app=db", false),
            ("app!=db", true),
            ("app!=web", false),
            ("missing!=x", true),
            ("tier in (a, b)", true),
            ("tier in (b)", false),
            ("tier notin (a,b)", false),
            ("missing notin (a)", true),
            ("missing in (a)", false),
            ("app", true),
            ("missing", false),
            ("!missing", true),
            ("!app", false),
            ("empty=", true),
            ("empty in (,x)", true),
            ("app=web,tier in (a,b),!canary", true),
            ("in=x", false),
            ("example.com/role!=db", true),
        ];
        for (text, expected) in cases {
            let selector = LabelSelector::parse(text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(selector.matches(&object), expected, "{text}");
        }
    }

    #[test]
    fn errors_say_what_and_where() {
        let cases = [
            ("app=web,", 9, "expected a label key, found the end"),
            (
                "app web",
                5,
                "expected =, ==, !=, in, notin, \",\" or the end after \"app\", found \"web\"",
            ),
            ("app in web", 8, "expected \"(\", found \"web\""),
            ("app in (a", 10, "expected \",\" or \")\", found the end"),
            ("a=b=c", 4, "expected \",\" or the end, found \"=\""),
            (
                "app=we$b",
                5,
                "value \"we$b\": '$' is not allowed (letters, digits, \"-\", \"_\", \".\")",
            ),
            ("-app=web", 1, "key \"-app\": must begin and end with a letter or digit"),
            (
                "Ex_ample/app=web",
                1,
                "key \"Ex_ample/app\": \"Ex_ample\" is not a DNS subdomain",
            ),
            ("!=a", 1, "expected a label key, found \"!=\""),
        ];
        for (text, column, problem) in cases {
            let error = LabelSelector::parse(text).expect_err(text);
            assert_eq!((error.column, error.problem.as_str()), (column, problem), "{text}");
        }
    }

    #[test]
    fn the_structured_form_is_checked() {
        let with = |operator: &str, values: &[&str]| v1::LabelSelector {
            match_labels: labels(&[("app", "web")]),
            match_expressions: vec![v1::LabelSelectorRequirement {
                key: "tier".into(),
                operator: operator.into(),
                values: values.iter().map(ToString::to_string).collect(),
            }],
        };
        let text =
            |operator, values| LabelSelector::from_proto(&with(operator, values)).map(|selector| selector.to_string());
        assert_eq!(text("In", &["b", "a"]).as_deref(), Ok("app=web,tier in (a,b)"));
        assert_eq!(text("DoesNotExist", &[]).as_deref(), Ok("app=web,!tier"));
        assert!(text("In", &[]).is_err());
        assert!(text("Exists", &["a"]).is_err());
        assert!(text("in", &["a"]).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in ".{0,60}") {
            let _ = LabelSelector::parse(&text);
        }

        #[test]
        fn what_is_read_prints_to_text_that_reads_the_same(
            text in "(!?[a-z]{1,5}|[a-z]{1,5}(=|!=)[a-z0-9]{0,3}|[a-z]{1,3} (in|notin) \\([a-z]{0,2}(,[a-z]{1,2}){0,2}\\))(,[a-z]{1,3}=x){0,2}"
        ) {
            let selector = LabelSelector::parse(&text).expect("generated to be valid");
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
        }
    }
}
