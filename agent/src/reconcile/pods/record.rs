//! The node's own memory of its pods: one small file each, so that a restarted agent knows all pods with control away.
//!
//! A record is on disk before what it says is done (an address is used, a container is started again), and is removed
//! last. Files are replaced whole: a crash leaves the old record or the new one.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use causeway_proto::v1::Pod;
use serde::{Deserialize, Serialize};

use super::{backoff::Backoff, model::Run};
use crate::runtime::Exit;

/// Layout of the file; another number is refused, never guessed at.
const VERSION: u32 = 2;
/// The layout before: a pod had one address, of IPv4.
const VERSION_ONE_ADDRESS: u32 = 1;

/// What is remembered of one pod.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// The pod as last seen at the API server, with the status last accepted there.
    pub pod: Pod,
    /// Its addresses, at most one of each family; the first is the primary one.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The address in files of [`VERSION_ONE_ADDRESS`].
    #[serde(default, skip_serializing)]
    address: Option<IpAddr>,
    /// When this node first saw it.
    pub start_time: SystemTime,
    /// Set once it has to go.
    pub ending: Option<Ending>,
    /// By container name; names are unique over all containers of a pod.
    pub containers: BTreeMap<String, ContainerRecord>,
}

/// The pod's end has begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ending {
    /// When this node began it.
    pub since: SystemTime,
    /// Time from then to SIGKILL.
    pub grace: Duration,
    /// The object is still at the API server and waits for the node's confirmation.
    pub confirm: bool,
}

/// What is remembered of one container.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// The present run.
    pub run: Run,
    /// The end of the run before.
    pub last_exit: Option<Exit>,
    /// Starts after the first.
    pub restart_count: u32,
    /// Crashes in a row.
    pub crashes: Backoff,
    /// Digest of the image.
    pub image_id: String,
    /// Identity of the present or last run.
    pub container_id: String,
    /// Start-up of the present run is over. Kept so that a restarted agent takes nothing out of service.
    pub started: bool,
    /// The present run takes traffic. Likewise.
    pub ready: bool,
}

impl Record {
    /// A pod just seen for the first time.
    pub fn new(pod: Pod, now: SystemTime) -> Self {
        Self {
            version: VERSION,
            pod,
            addresses: Vec::new(),
            address: None,
            start_time: now,
            ending: None,
            containers: BTreeMap::new(),
        }
    }

    /// The pod's uid, its identity on this node.
    pub fn uid(&self) -> &str {
        self.pod.metadata.as_ref().map_or("", |meta| &meta.uid)
    }
}

/// Records cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The directory.
    #[error("opening the directory of pod records {path}")]
    Open {
        /// Directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file.
    #[error("reading the pod record {path}")]
    Read {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not what was written.
    #[error("the pod record {path} is damaged")]
    Parse {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Written by another version.
    #[error("the pod record {path} has version {found}, this agent knows {VERSION}")]
    Version {
        /// File.
        path: PathBuf,
        /// What it says.
        found: u32,
    },
    /// A file.
    #[error("writing the pod record {path}")]
    Write {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file.
    #[error("removing the pod record {path}")]
    Remove {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The directory of all records.
#[derive(Clone, Debug)]
pub struct Records {
    directory: PathBuf,
}

impl Records {
    /// Opens the directory, made if needed.
    pub fn open(directory: &Path) -> Result<Self, RecordError> {
        fs::create_dir_all(directory).map_err(|source| RecordError::Open {
            path: directory.to_owned(),
            source,
        })?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// Reads all records. One that cannot be read is reported and does not hide the others.
    pub fn load(&self) -> Result<(Vec<Record>, Vec<RecordError>), RecordError> {
        let open = |source| RecordError::Open {
            path: self.directory.clone(),
            source,
        };
        let (mut records, mut errors) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.directory).map_err(open)? {
            let path = entry.map_err(open)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                match read(&path) {
                    Ok(record) => records.push(record),
                    Err(error) => errors.push(error),
                }
            }
        }
        Ok((records, errors))
    }

    /// The record of pod `uid`, if there is one.
    pub fn get(&self, uid: &str) -> Result<Option<Record>, RecordError> {
        let path = self.path(uid);
        if path.exists() { read(&path).map(Some) } else { Ok(None) }
    }

    /// Writes a record durably.
    pub fn save(&self, record: &Record) -> Result<(), RecordError> {
        let path = self.path(record.uid());
        write(&self.directory, &path, record).map_err(|source| RecordError::Write { path, source })
    }

    /// Removes the record of pod `uid`, if there is one.
    pub fn remove(&self, uid: &str) -> Result<(), RecordError> {
        let path = self.path(uid);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RecordError::Remove { path, source }),
            _ => Ok(()),
        }
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.directory.join(format!("{uid}.json"))
    }
}

fn read(path: &Path) -> Result<Record, RecordError> {
    let bytes = fs::read(path).map_err(|source| RecordError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut record: Record = serde_json::from_slice(&bytes).map_err(|source| RecordError::Parse {
        path: path.to_owned(),
        source,
    })?;
    match record.version {
        VERSION => Ok(record),
        VERSION_ONE_ADDRESS => {
            record.version = VERSION;
            record.addresses = record.address.take().into_iter().collect();
            Ok(record)
        }
        found => Err(RecordError::Version {
            path: path.to_owned(),
            found,
        }),
    }
}

fn write(directory: &Path, path: &Path, record: &Record) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::ObjectMeta;

    use super::*;

    fn record(uid: &str) -> Record {
        let metadata = Some(ObjectMeta {
            uid: uid.into(),
            name: "web".into(),
            ..ObjectMeta::default()
        });
        let now = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        let mut record = Record::new(
            Pod {
                metadata,
                ..Pod::default()
            },
            now,
        );
        record.addresses = vec!["10.244.0.5".parse().unwrap(), "fd00:244::5".parse().unwrap()];
        record.ending = Some(Ending {
            since: now,
            grace: Duration::from_secs(30),
            confirm: true,
        });
        let run = Run::Running { started_at: now };
        record.containers.insert(
            "web".into(),
            ContainerRecord {
                run,
                restart_count: 2,
                ..ContainerRecord::default()
            },
        );
        record
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).unwrap();
        records.save(&record("a")).unwrap();
        records.save(&record("b")).unwrap();
        records.remove("b").unwrap();
        records.remove("b").unwrap();
        let (loaded, errors) = records.load().unwrap();
        assert_eq!(loaded, [record("a")]);
        assert!(errors.is_empty());
        assert_eq!(records.get("a").unwrap(), Some(record("a")));
        assert_eq!(records.get("b").unwrap(), None);
    }

    #[test]
    fn a_damaged_record_does_not_hide_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).unwrap();
        records.save(&record("a")).unwrap();
        fs::write(directory.path().join("b.json"), "{").unwrap();
        fs::write(directory.path().join("c.new"), "{").unwrap();
        let (loaded, errors) = records.load().unwrap();
        assert_eq!(loaded.len(), 1);
        assert!(matches!(errors.as_slice(), [RecordError::Parse { .. }]));
    }

    #[test]
    fn a_record_of_the_time_of_one_address_is_understood() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).unwrap();
        let mut old = serde_json::to_value(record("a")).unwrap();
        old.as_object_mut().unwrap().remove("addresses");
        old["version"] = 1.into();
        old["address"] = "10.244.0.9".into();
        fs::write(directory.path().join("a.json"), old.to_string()).unwrap();
        let (loaded, errors) = records.load().unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        let addresses: Vec<IpAddr> = vec!["10.244.0.9".parse().unwrap()];
        assert_eq!(
            loaded,
            [Record {
                addresses,
                ..record("a")
            }]
        );
        records.save(&loaded[0]).unwrap();
        assert_eq!(records.get("a").unwrap().as_ref(), loaded.first());
    }

    #[test]
    fn another_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).unwrap();
        records
            .save(&Record {
                version: 3,
                ..record("a")
            })
            .unwrap();
        let (_, errors) = records.load().unwrap();
        assert!(matches!(errors.as_slice(), [RecordError::Version { found: 3, .. }]));
    }
}
