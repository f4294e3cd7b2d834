//! SHA-256 digests in the form images name them.

use std::{
    fmt::Write as _,
    io::{self, Read},
};

use sha2::{Digest as _, Sha256};

/// Digests what is read through it.
pub(super) struct Hashing<R> {
    reader: R,
    hasher: Sha256,
}

impl<R> Hashing<R> {
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            hasher: Sha256::new(),
        }
    }

    /// The digest of what was read.
    pub fn digest(self) -> String {
        let mut digest = "sha256:".to_owned();
        for byte in self.hasher.finalize() {
            // Writing to a String cannot fail.
            let _ = write!(digest, "{byte:02x}");
        }
        digest
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}
