//! Names of images, as Docker understands them: pure parsing.

use std::{fmt, str::FromStr};

/// A full image reference: `registry/repository:tag`, `registry/repository@digest`, or with both.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reference {
    /// Registry host, with a port if need be.
    pub registry: String,
    /// Path of the repository.
    pub repository: String,
    /// Tag; "latest" when neither tag nor digest were given.
    pub tag: Option<String>,
    /// Digest of a manifest ("sha256:…").
    pub digest: Option<String>,
}

/// The registry of names that name none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Where that registry keeps images without an owner.
const DEFAULT_OWNER: &str = "library";

/// Text is no image reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{text}\" is not an image reference: {problem}")]
pub struct ParseReferenceError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Reference {
    /// Registry and repository: what two references to versions of one image have in common.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |problem| {
            Err(ParseReferenceError {
                text: text.to_owned(),
                problem,
            })
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return refuse("the digest must be sha256: and 64 lower-case hexadecimal digits");
        }
        // A colon behind the last slash begins a tag, one before it a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return refuse("the tag must be 1 to 128 letters, digits, \"_\", \".\" and \"-\"");
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_registry(first) => (first, path.to_owned()),
            _ => (DEFAULT_REGISTRY, name.to_owned()),
        };
        if !is_host(registry) {
            return refuse("the registry must be a host name, with a port if need be");
        }
        let registry = if registry == "index.docker.io" {
            DEFAULT_REGISTRY
        } else {
            registry
        };
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("{DEFAULT_OWNER}/{path}")
        } else {
            path
        };
        if !repository.split('/').all(is_path_part) || repository.len() > 255 {
            return refuse(
                "the name must be lower-case letters and digits, separated by \".\", \"_\", \"-\" and \"/\"",
            );
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest"),
            (tag, _) => tag,
        };
        let owned = |text: &str| text.to_owned();
        Ok(Self {
            registry: owned(registry),
            repository,
            tag: tag.map(owned),
            digest: digest.map(owned),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// A first part is a host when it has a dot or a port, or is `localhost`.
fn is_registry(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':'])
}

fn is_host(registry: &str) -> bool {
    let (host, port) = registry.split_once(':').unwrap_or((registry, "0"));
    let label = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    host.split('.').all(label) && port.parse::<u16>().is_ok()
}

fn is_path_part(part: &str) -> bool {
    let separator = |c: char| matches!(c, '.' | '_' | '-');
    !part.is_empty()
        && !part.starts_with(separator)
        && !part.ends_with(separator)
        && part
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || separator(c))
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// Whether `text` is a SHA-256 digest ("sha256:…").
pub(super) fn is_digest(text: &str) -> bool {
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    text.strip_prefix("sha256:")
        .is_some_and(|digits| digits.len() == 64 && digits.chars().all(hex))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn short_names_are_completed_as_docker_does() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, want) in [
            ("demo", "docker.io/library/demo:latest"),
            ("demo:1.0", "docker.io/library/demo:1.0"),
            ("me/demo", "docker.io/me/demo:latest"),
            ("docker.io/demo", "docker.io/library/demo:latest"),
            ("index.docker.io/me/demo", "docker.io/me/demo:latest"),
            ("localhost/demo", "localhost/demo:latest"),
            ("localhost:5000/demo", "localhost:5000/demo:latest"),
            ("registry.example/a/b/c:v1", "registry.example/a/b/c:v1"),
        ] {
            assert_eq!(full(text), want, "{text}");
        }
        assert_eq!(
            full(&format!("demo@{digest}")),
            format!("docker.io/library/demo@{digest}")
        );
        assert_eq!(
            full(&format!("demo:1@{digest}")),
            format!("docker.io/library/demo:1@{digest}")
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            ":",
            "demo:",
            "Demo",
            "a//b",
            "-a",
            "a/",
            "demo@sha256:00",
            "demo:a b",
            "a@",
            "../x",
            "demo:.x",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn full_references_parse_to_themselves(text in "[a-z0-9./:@_-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(&full(&reference.to_string()), &reference.to_string());
            }
        }
    }
}
