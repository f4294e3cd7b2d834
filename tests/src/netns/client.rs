//! What clients do with a connection to a [`TcpServer`](super::TcpServer) or to a server that echoes.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    thread,
};

use super::ask;

/// Who answers; panics when there is no connection or no answer.
pub fn answer(stream: io::Result<TcpStream>) -> String {
    ask(&stream.expect("a connection")).expect("an answer")
}

/// Sends a mebibyte to a [`TcpServer`](super::TcpServer) and reads as much back.
pub fn bulk(mut stream: TcpStream) {
    let mut byte = [0; 1];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).expect("the server's name");
    }
    exchange(&stream, &noise(1 << 20), "bulk");
}

/// Sends bytes and waits until they came back; panics with `how` when they do not.
pub fn exchange(stream: &TcpStream, bytes: &[u8], how: &str) {
    thread::scope(|scope| {
        scope.spawn(|| (&*stream).write_all(bytes).expect("all sent"));
        let mut received = vec![0; bytes.len()];
        (&*stream)
            .read_exact(&mut received)
            .unwrap_or_else(|error| panic!("{how}: {error}"));
        assert!(received == bytes, "{how}: other bytes came back");
    });
}

/// Bytes without a pattern that a mistake could repeat.
pub fn noise(length: u32) -> Vec<u8> {
    (0..length)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}
