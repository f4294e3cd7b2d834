//! Words and punctuation of selectors.

use super::SelectorError;

/// A token and the byte offset at which it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token<'a> {
    Word(&'a str),
    Comma,
    Open,
    Close,
    Equals,
    NotEquals,
    Not,
    End,
}

impl Token<'_> {
    /// How an error message names it.
    pub(super) fn describe(self) -> String {
        match self {
            Self::Word(word) => format!("\"{word}\""),
            Self::Comma => "\",\"".to_owned(),
            Self::Open => "\"(\"".to_owned(),
            Self::Close => "\")\"".to_owned(),
            Self::Equals => "\"=\"".to_owned(),
            Self::NotEquals => "\"!=\"".to_owned(),
            Self::Not => "\"!\"".to_owned(),
            Self::End => "the end".to_owned(),
        }
    }
}

/// Splits a selector; there is always a token to look at, [`Token::End`] at last.
pub(super) struct Tokens<'a> {
    text: &'a str,
    position: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, position: 0 }
    }

    /// The next token, left in place.
    pub(super) fn peek(&self) -> (usize, Token<'a>) {
        let (start, token, _) = self.scan();
        (start, token)
    }

    /// The next token, taken.
    pub(super) fn next(&mut self) -> (usize, Token<'a>) {
        let (start, token, end) = self.scan();
        self.position = end;
        (start, token)
    }

    /// What is between commas, up to the end; nothing where there is nothing.
    pub(super) fn separated<T>(
        mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, SelectorError>,
    ) -> Result<Vec<T>, SelectorError> {
        let mut items = Vec::new();
        if self.peek().1 == Token::End {
            return Ok(items);
        }
        loop {
            items.push(item(&mut self)?);
            match self.next() {
                (_, Token::End) => return Ok(items),
                (_, Token::Comma) => {}
                (at, other) => {
                    let problem = format!("expected \",\" or the end, found {}", other.describe());
                    return Err(SelectorError::at(self.text, at, problem));
                }
            }
        }
    }

    fn scan(&self) -> (usize, Token<'a>, usize) {
        let rest = &self.text[self.position..];
        let start = self.position + (rest.len() - rest.trim_start().len());
        let rest = &self.text[start..];
        let (token, length) = match rest.as_bytes() {
            [] => (Token::End, 0),
            [b',', ..] => (Token::Comma, 1),
            [b'(', ..] => (Token::Open, 1),
            [b')', ..] => (Token::Close, 1),
            [b'=', b'=', ..] => (Token::Equals, 2),
            [b'=', ..] => (Token::Equals, 1),
            [b'!', b'=', ..] => (Token::NotEquals, 2),
            [b'!', ..] => (Token::Not, 1),
            _ => {
                let ends = |c: char| c.is_whitespace() || ",()=!".contains(c);
                let length = rest.find(ends).unwrap_or(rest.len());
                (Token::Word(&rest[..length]), length)
            }
        };
        (start, token, start + length)
    }
}
