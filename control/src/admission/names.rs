//! The syntax of names, labels, ports: each function answers every rule that a text breaks, in Kubernetes' words
//! (apimachinery `util/validation`).

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;
const PORT_NAME_MAX: usize = 15;

const QUALIFIED_NAME_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
     alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

fn length(text: &str, max: usize) -> Option<String> {
    (text.len() > max).then(|| format!("must be no more than {max} characters"))
}

/// Inner characters as `inner` says; the first and the last a lower case letter or digit.
fn is_bounded(text: &str, inner: impl Fn(u8) -> bool, edge: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => edge(*first) && edge(*last) && bytes.iter().all(|b| inner(*b)),
        _ => false,
    }
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_dns_label(text: &str) -> bool {
    is_bounded(text, |b| lower_alnum(b) || b == b'-', lower_alnum)
}

/// RFC 1123 label: names of namespaces, containers, host names.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let shape = (!is_dns_label(text)).then(|| {
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with \
         an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            .to_owned()
    });
    length(text, LABEL_MAX).into_iter().chain(shape).collect()
}

/// RFC 1123 subdomain: names of most objects.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let shape = (!text.split('.').all(is_dns_label)).then(|| {
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and \
         end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            .to_owned()
    });
    length(text, SUBDOMAIN_MAX).into_iter().chain(shape).collect()
}

/// RFC 1035 label: names of services, which start with a letter.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let shape = (!(is_dns_label(text) && text.as_bytes()[0].is_ascii_lowercase())).then(|| {
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, \
         and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is \
         '[a-z]([-a-z0-9]*[a-z0-9])?')"
            .to_owned()
    });
    length(text, LABEL_MAX).into_iter().chain(shape).collect()
}

/// `[prefix/]name`: keys of labels and annotations, finalizers, taints.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut rules = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a qualified name {QUALIFIED_NAME_RULE} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
            )];
        }
        Some(("", name)) => {
            rules.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            rules.extend(
                dns1123_subdomain(prefix)
                    .into_iter()
                    .map(|rule| format!("prefix part {rule}")),
            );
            name
        }
    };
    if name.is_empty() {
        rules.push("name part must be non-empty".to_owned());
    } else {
        rules.extend(length(name, LABEL_MAX).map(|rule| format!("name part {rule}")));
    }
    if !is_qualified(name) {
        rules.push(format!("name part {QUALIFIED_NAME_RULE}"));
    }
    rules
}

fn is_qualified(text: &str) -> bool {
    is_bounded(
        text,
        |b| b.is_ascii_alphanumeric() || b"-_.".contains(&b),
        |b| b.is_ascii_alphanumeric(),
    )
}

/// Value of a label: empty, or like the name part of a key.
pub fn label_value(text: &str) -> Vec<String> {
    let shape = (!text.is_empty() && !is_qualified(text)).then(|| {
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and \
         end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
         '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            .to_owned()
    });
    length(text, LABEL_MAX).into_iter().chain(shape).collect()
}

/// Name of an environment variable.
pub fn env_var_name(text: &str) -> Vec<String> {
    let valid = text
        .bytes()
        .enumerate()
        .all(|(at, b)| b.is_ascii_alphabetic() || b"-._".contains(&b) || (at > 0 && b.is_ascii_digit()));
    if valid && !text.is_empty() {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not \
         start with a digit (e.g. 'my.env-name',  or 'MY_ENV.NAME',  or 'MyEnvName1', regex used for validation is \
         '[-._a-zA-Z][-._a-zA-Z0-9]*')"
            .to_owned(),
    ]
}

/// IANA service name, by which a service may target a port (RFC 6335).
pub fn port_name(text: &str) -> Vec<String> {
    let mut rules: Vec<String> = length(text, PORT_NAME_MAX).into_iter().collect();
    if !text.bytes().all(|b| lower_alnum(b) || b == b'-') {
        rules.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        rules.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        rules.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        rules.push("must not begin or end with a hyphen".to_owned());
    }
    rules
}

/// Port number.
pub fn port_number(port: i32) -> Vec<String> {
    if (1..=65535).contains(&port) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

/// Name of an HTTP header (RFC 9110 token).
pub fn http_header_name(text: &str) -> Vec<String> {
    let valid = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if valid {
        return Vec::new();
    }
    vec![
        "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for \
         validation is '[-A-Za-z0-9]+')"
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rfcs() {
        for (text, label, subdomain, rfc1035) in [
            ("web", true, true, true),
            ("web-1", true, true, true),
            ("1web", true, true, false),
            ("a.b", false, true, false),
            ("", false, false, false),
            ("Web", false, false, false),
            ("-web", false, false, false),
            ("web-", false, false, false),
            ("a..b", false, false, false),
            ("wéb", false, false, false),
        ] {
            assert_eq!(dns1123_label(text).is_empty(), label, "label {text:?}");
            assert_eq!(dns1123_subdomain(text).is_empty(), subdomain, "subdomain {text:?}");
            assert_eq!(dns1035_label(text).is_empty(), rfc1035, "RFC 1035 {text:?}");
        }
        assert_eq!(dns1123_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert!(dns1123_label(&"a".repeat(63)).is_empty());
        assert_eq!(dns1123_label(&"A".repeat(64)).len(), 2, "every broken rule is told");
    }

    #[test]
    fn qualified_names_have_an_optional_prefix() {
        for text in ["app", "app.kubernetes.io/name", "A_b.c-d", "x.y/Z"] {
            assert!(qualified_name(text).is_empty(), "{text:?}");
        }
        for text in ["", "/a", "a/", "a/b/c", "A/b", "-a", "a b"] {
            assert!(!qualified_name(text).is_empty(), "{text:?}");
        }
        assert!(label_value("").is_empty());
        assert!(!label_value("a b").is_empty());
        assert!(!label_value(&"a".repeat(64)).is_empty());
    }

    #[test]
    fn ports_and_variables() {
        assert!(port_name("http").is_empty());
        assert_eq!(port_name("80"), ["must contain at least one letter (a-z)"]);
        assert_eq!(port_name("a-very-long-port").len(), 1);
        assert_eq!(port_name("-a--B").len(), 3);
        assert!(port_number(65535).is_empty());
        assert!(!port_number(0).is_empty());
        assert!(!port_number(65536).is_empty());
        assert!(env_var_name("A.b-C_1").is_empty());
        assert!(!env_var_name("1A").is_empty());
        assert!(!env_var_name("").is_empty());
        assert!(!env_var_name("A=B").is_empty());
    }
}
