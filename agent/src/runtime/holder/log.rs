//! Container output on disk, in the CRI log format: `<RFC 3339 time> <stream> <F|P> <text>`.
//!
//! `F` ends a line, `P` is a part of one that was too long or is not finished.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Longest text of one record, in bytes (as containerd has it).
const MAX_LINE: usize = 16 * 1024;

/// Which stream a line came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stream {
    Out,
    Err,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Out => "stdout",
            Self::Err => "stderr",
        }
    }
}

/// The log of one container.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    max_bytes: u64,
    max_files: u32,
    /// The unfinished line of each stream.
    partial: [Vec<u8>; 2],
}

impl Log {
    /// Opens the log at `path`, going on behind what is there.
    pub fn open(path: &Path, max_bytes: u64, max_files: u32) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            max_bytes,
            max_files,
            partial: [Vec::new(), Vec::new()],
        })
    }

    /// Takes what came out of a stream.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.partial[stream as usize]);
        buffer.extend_from_slice(bytes);
        let mut records = Vec::new();
        let rest = split(&buffer, |text, whole| record(&mut records, stream, whole, text));
        buffer.drain(..rest);
        self.partial[stream as usize] = buffer;
        self.append(&records)
    }

    /// Writes what is left of both streams.
    pub fn finish(&mut self) -> io::Result<()> {
        let mut records = Vec::new();
        for stream in [Stream::Out, Stream::Err] {
            let rest = std::mem::take(&mut self.partial[stream as usize]);
            if !rest.is_empty() {
                record(&mut records, stream, false, &rest);
            }
        }
        self.append(&records)
    }

    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        if self.size > 0 && self.size + records.len() as u64 > self.max_bytes {
            self.rotate()?;
        }
        self.size += records.len() as u64;
        self.file.write_all(records)
    }

    /// `log` becomes `log.1`, `log.1` becomes `log.2`…; the oldest goes. Whoever reads finds a `log` at any instant.
    fn rotate(&mut self) -> io::Result<()> {
        let named = |suffix: &str| {
            let mut name = self.path.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        let nth = |n: u32| named(&format!(".{n}"));
        for n in (2..self.max_files).rev() {
            fs::rename(nth(n - 1), nth(n)).or_else(ignore_absent)?;
        }
        if self.max_files > 1 {
            fs::remove_file(nth(1)).or_else(ignore_absent)?;
            fs::hard_link(&self.path, nth(1))?;
        }
        let fresh = named(".new");
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(&fresh)?;
        fs::rename(&fresh, &self.path)?;
        self.file = file;
        self.size = 0;
        Ok(())
    }
}

fn ignore_absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}

/// Hands every record's text in `buffer` to `each`, with whether it ends a line; answers how many bytes are used up.
fn split(buffer: &[u8], mut each: impl FnMut(&[u8], bool)) -> usize {
    let mut start = 0;
    loop {
        let rest = &buffer[start..];
        match rest.iter().position(|byte| *byte == b'\n') {
            Some(end) if end <= MAX_LINE => {
                each(&rest[..end], true);
                start += end + 1;
            }
            _ if rest.len() > MAX_LINE => {
                each(&rest[..MAX_LINE], false);
                start += MAX_LINE;
            }
            _ => return start,
        }
    }
}

fn record(out: &mut Vec<u8>, stream: Stream, whole: bool, text: &[u8]) {
    let tag = if whole { 'F' } else { 'P' };
    out.extend_from_slice(format!("{:.9} {} {tag} ", jiff::Timestamp::now(), stream.name()).as_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(log: &str) -> Vec<String> {
        log.lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    #[test]
    fn lines_are_stamped_and_streams_kept_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web/0.log");
        let mut log = Log::open(&path, 1 << 20, 2).unwrap();
        log.write(Stream::Out, b"one\ntw").unwrap();
        log.write(Stream::Err, b"bad\n").unwrap();
        log.write(Stream::Out, b"o\n\nend").unwrap();
        log.finish().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            texts(&text),
            [
                "stdout F one",
                "stderr F bad",
                "stdout F two",
                "stdout F ",
                "stdout P end"
            ]
        );
        let stamp = text.split_once(' ').unwrap().0;
        assert_eq!(
            (stamp.len(), stamp.parse::<jiff::Timestamp>().is_ok()),
            ("2026-01-01T00:00:00.000000000Z".len(), true)
        );
    }

    #[test]
    fn long_lines_come_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = Log::open(&path, 1 << 20, 2).unwrap();
        let mut line = vec![b'x'; 2 * MAX_LINE + 5];
        line.push(b'\n');
        log.write(Stream::Out, &line).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let parts: Vec<_> = texts(&text)
            .iter()
            .map(|text| (text[..8].to_owned(), text.len() - 9))
            .collect();
        let want = [("stdout P", MAX_LINE), ("stdout P", MAX_LINE), ("stdout F", 5)];
        assert_eq!(parts, want.map(|(tag, length)| (tag.to_owned(), length)));
    }

    #[test]
    fn full_logs_are_rotated_and_the_oldest_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = Log::open(&path, 120, 3).unwrap();
        for n in 0..8 {
            log.write(Stream::Out, format!("line number {n}\n").as_bytes()).unwrap();
        }
        let read = |suffix: &str| fs::read_to_string(format!("{}{suffix}", path.display())).unwrap_or_default();
        assert_eq!(texts(&read("")), ["stdout F line number 6", "stdout F line number 7"]);
        assert_eq!(texts(&read(".2")), ["stdout F line number 2", "stdout F line number 3"]);
        assert_eq!(read(".3"), "");
    }
}
