//! What those who record events agree on.

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EventType {
    /// Something happened as it should.
    Normal,
    /// Somebody may have to do something.
    Warning,
}

impl EventType {
    /// Names in the API of all of them.
    pub const NAMES: &[&str] = &[Self::Normal.name(), Self::Warning.name()];

    /// Name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Longest message that the API takes, in bytes.
pub const MESSAGE_MAX_BYTES: usize = 1024;

/// A message cut to what the API takes, at a character boundary, with dots for the rest.
pub fn shortened(mut message: String) -> String {
    const DOTS: &str = "...";
    if message.len() > MESSAGE_MAX_BYTES {
        message.truncate(message.floor_char_boundary(MESSAGE_MAX_BYTES - DOTS.len()));
        message.push_str(DOTS);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        let cut = shortened("ü".repeat(MESSAGE_MAX_BYTES));
        assert!(
            cut.len() <= MESSAGE_MAX_BYTES && cut.ends_with("ü..."),
            "{} bytes",
            cut.len()
        );
        let whole = "u".repeat(MESSAGE_MAX_BYTES);
        assert_eq!(shortened(whole.clone()), whole);
    }
}
