//! What the programs of a development build say.

use std::{
    fs,
    net::UdpSocket,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use causeway_ebpf_build::{Toolchain, Variant, build};
use causeway_tests::packet::{CONNECTED_SOCKETS, Datapath, with_socket_hooks_of};
use log::{Log, Metadata, Record};

const UDP: u8 = 17;

/// Keeps what it is told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Log for Told {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.push(format!("{} {}", record.level(), record.args()));
    }

    fn flush(&self) {}
}

fn load() -> Result<Datapath> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let object = build(&Toolchain::find()?, &root, Variant::Logging)?;
    Datapath::load_object(&fs::read(object)?, 64)
}

#[test]
fn a_development_build_says_what_the_kernel_refused() -> Result<()> {
    with_socket_hooks_of("a_development_build_says_what_the_kernel_refused", load, |datapath| {
        datapath.backend(0, "127.0.0.1:9")?;
        datapath.service("10.96.0.10:53", UDP, &[0])?;
        let told = Told::default();
        let mut logger = datapath.logger(told.clone())?;
        let connected = || -> Result<UdpSocket> {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect("10.96.0.10:53")?;
            Ok(socket)
        };
        let open = (0..CONNECTED_SOCKETS)
            .map(|_| connected())
            .collect::<Result<Vec<_>>>()?;
        logger.flush();
        assert_eq!(told.all(), [""; 0]);
        connected().expect_err("the table is full");
        logger.flush();
        // BPF_FUNC_map_update_elem, E2BIG.
        assert_eq!(told.all(), ["WARN the kernel refused helper 2 with error -7"]);
        drop(open);
        Ok(())
    })
}
