//! Layers come plain or compressed; which, their first bytes tell more reliably than their media type.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;

use super::UnpackError;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Window a zstd frame may ask us to keep, in bytes (what the zstd program takes at most without being told).
const MAX_WINDOW: u64 = 128 << 20;

/// A reader of the uncompressed archive.
pub(in crate::image) fn decompress<'a>(reader: impl Read + 'a) -> Result<Box<dyn Read + 'a>, UnpackError> {
    let mut reader = BufReader::with_capacity(256 * 1024, reader);
    let start = reader.fill_buf().map_err(UnpackError::Read)?;
    Ok(if start.starts_with(&GZIP) {
        Box::new(MultiGzDecoder::new(reader))
    } else if start.starts_with(&ZSTD) || skippable(start) {
        Box::new(Zstd {
            state: State::Between(reader),
        })
    } else {
        Box::new(reader)
    })
}

/// Whether a frame that holds no data begins here (RFC 8878, 3.1.2).
fn skippable(start: &[u8]) -> bool {
    start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18]
}

type Frame<R> = StreamingDecoder<Chain<Cursor<[u8; 4]>, R>, ruzstd::decoding::FrameDecoder>;

/// All the frames of a zstd file, one after the other.
struct Zstd<R: Read> {
    state: State<R>,
}

enum State<R: Read> {
    Between(R),
    Within(Box<Frame<R>>),
    End,
}

impl<R: BufRead> Zstd<R> {
    /// Finds the next frame with data; false at the end of the file.
    fn next_frame(&mut self, mut reader: R) -> io::Result<bool> {
        while !reader.fill_buf()?.is_empty() {
            let mut magic = [0; 4];
            reader.read_exact(&mut magic)?;
            if skippable(&magic) {
                let mut length = [0; 4];
                reader.read_exact(&mut length)?;
                let length = u64::from(u32::from_le_bytes(length));
                io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
                continue;
            }
            let frame = StreamingDecoder::new_with_max_window_size(Cursor::new(magic).chain(reader), MAX_WINDOW);
            self.state = State::Within(Box::new(frame.map_err(io::Error::other)?));
            return Ok(true);
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.state, State::End) {
                State::Between(reader) => {
                    if !self.next_frame(reader)? {
                        return Ok(0);
                    }
                }
                State::Within(mut frame) => match frame.read(buffer)? {
                    0 if !buffer.is_empty() => self.state = State::Between(frame.into_inner().into_inner().1),
                    length => {
                        self.state = State::Within(frame);
                        return Ok(length);
                    }
                },
                State::End => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn all(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        decompress(bytes).unwrap().read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn the_first_bytes_decide() {
        let text = b"some text, some text, some text".repeat(1000);
        assert_eq!(all(&text), text);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&text).unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(all(&[&gzip[..], &gzip[..]].concat()), [&text[..], &text[..]].concat());
        let zstd = ruzstd::encoding::compress_to_vec(&text[..], ruzstd::encoding::CompressionLevel::Fastest);
        assert_eq!(all(&zstd), text);
    }

    #[test]
    fn zstd_files_may_have_many_frames_and_some_without_data() {
        let frame = |text: &[u8]| ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest);
        let skip = [0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
        let file = [&skip[..], &frame(b"one "), &skip, &frame(b"two"), &skip].concat();
        assert_eq!(all(&file), b"one two");
    }

    #[test]
    fn a_cut_file_is_an_error() {
        let zstd =
            ruzstd::encoding::compress_to_vec(&b"abc".repeat(99)[..], ruzstd::encoding::CompressionLevel::Fastest);
        let mut out = Vec::new();
        assert!(
            decompress(&zstd[..zstd.len() - 2])
                .unwrap()
                .read_to_end(&mut out)
                .is_err()
        );
    }
}
