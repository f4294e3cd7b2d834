//! Which objects a command line means: "pods,svc", "pod web db", "pod/web svc/web", "all". Pure.

use causeway_proto::Kind;

use crate::error::CliError;

/// The kinds that "all" stands for, as with kubectl: what users run.
pub const ALL: &[Kind] = &[Kind::Pod, Kind::ReplicationController, Kind::Service];

/// What the positional arguments mean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Targets {
    /// All objects of these kinds (that selectors let through).
    Kinds(Vec<Kind>),
    /// These objects.
    Named(Vec<(Kind, String)>),
}

impl Targets {
    /// Reads positional arguments; the first is a kind, several, or "KIND/NAME".
    pub fn parse(arguments: &[String]) -> Result<Self, CliError> {
        let usage = |text: String| CliError::Usage(text);
        let Some((first, rest)) = arguments.split_first() else {
            return Err(usage(
                "name a kind, such as pods; causeway api-resources lists them".to_owned(),
            ));
        };
        if arguments.iter().any(|argument| argument.contains('/')) {
            return arguments
                .iter()
                .map(|argument| slashed(argument))
                .collect::<Result<_, _>>()
                .map(Self::Named);
        }
        let kinds = kinds(first)?;
        if rest.is_empty() {
            return Ok(Self::Kinds(kinds));
        }
        if first.split(',').any(|kind| kind == "all") {
            return Err(usage("\"all\" takes no names".to_owned()));
        }
        let named = kinds
            .iter()
            .flat_map(|kind| rest.iter().map(|name| (*kind, name.clone())));
        Ok(Self::Named(named.collect()))
    }

    /// As [`Self::parse`], for commands that must not mean everything by accident.
    pub fn parse_named(arguments: &[String]) -> Result<Vec<(Kind, String)>, CliError> {
        match Self::parse(arguments)? {
            Self::Named(named) => Ok(named),
            Self::Kinds(_) => Err(CliError::Usage("name the objects".to_owned())),
        }
    }

    /// The kinds, each once.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = match self {
            Self::Kinds(kinds) => kinds.clone(),
            Self::Named(named) => named.iter().map(|(kind, _)| *kind).collect(),
        };
        kinds.dedup();
        kinds
    }
}

fn kinds(text: &str) -> Result<Vec<Kind>, CliError> {
    let mut kinds = Vec::new();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let found = if word == "all" { ALL.to_vec() } else { vec![kind(word)?] };
        kinds.extend(
            found
                .into_iter()
                .filter(|kind| !kinds.contains(kind))
                .collect::<Vec<_>>(),
        );
    }
    Ok(kinds)
}

/// Reads the name of one kind.
pub fn kind(text: &str) -> Result<Kind, CliError> {
    text.parse()
        .map_err(|error: causeway_proto::kind::UnknownKind| CliError::Usage(error.to_string()))
}

fn slashed(argument: &str) -> Result<(Kind, String), CliError> {
    match argument.split_once('/') {
        Some((text, name)) if !name.is_empty() && !name.contains('/') => Ok((kind(text)?, name.to_owned())),
        _ => Err(CliError::Usage(format!(
            "\"{argument}\" is not KIND/NAME; all or none must have the slash"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Targets, String> {
        let arguments: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        Targets::parse(&arguments).map_err(|error| error.to_string())
    }

    fn named(pairs: &[(Kind, &str)]) -> Targets {
        Targets::Named(pairs.iter().map(|(kind, name)| (*kind, (*name).to_owned())).collect())
    }

    #[test]
    fn each_way_of_naming_objects_is_read() {
        assert_eq!(parse("pods"), Ok(Targets::Kinds(vec![Kind::Pod])));
        assert_eq!(
            parse("svc,ep,po,svc"),
            Ok(Targets::Kinds(vec![Kind::Service, Kind::Endpoints, Kind::Pod]))
        );
        assert_eq!(parse("all"), Ok(Targets::Kinds(ALL.to_vec())));
        assert_eq!(parse("pod a b"), Ok(named(&[(Kind::Pod, "a"), (Kind::Pod, "b")])));
        assert_eq!(
            parse("svc,ep web"),
            Ok(named(&[(Kind::Service, "web"), (Kind::Endpoints, "web")]))
        );
        assert_eq!(
            parse("pod/a rc/b"),
            Ok(named(&[(Kind::Pod, "a"), (Kind::ReplicationController, "b")]))
        );
    }

    #[test]
    fn what_names_nothing_is_refused_with_a_hint() {
        assert!(parse("").unwrap_err().contains("api-resources"));
        assert!(
            parse("deployments")
                .unwrap_err()
                .contains("known kinds: namespaces (ns), nodes (no)")
        );
        assert!(parse("pod/a b").unwrap_err().contains("\"b\" is not KIND/NAME"));
        assert!(parse("pod/").unwrap_err().contains("KIND/NAME"));
        assert_eq!(parse("all web").unwrap_err(), "\"all\" takes no names");
    }
}
