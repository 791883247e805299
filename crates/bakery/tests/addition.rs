//! Packages for a system that is there already, out of repositories that a user names.

mod archive;

use std::path::PathBuf;

use archive::{Files, Key, Package, Server, Suite, architecture, sha256};
use bakery::source::Options;
use bakery::source::bootstrap::addition::{self, Asked, Repository, System};
use spec::event::Silent;
use store::Store;

const STATUS: &str = "Package: base\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n";

struct Bench {
    directory: tempfile::TempDir,
    key: Key,
}

impl Bench {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), key: Key::new("mine") }
    }

    /// A keyring file with a key.
    fn keyring(&self, name: &str, key: &Key) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, key.public()).unwrap();
        path
    }

    /// `name version` of what would be installed for a package.
    fn add(&self, repository: &Repository, name: &str) -> Result<Vec<String>, String> {
        let store = Store::open(&self.directory.path().join("store")).unwrap();
        let system = System {
            label: None,
            architecture: architecture(),
            status: STATUS,
            repositories: std::slice::from_ref(repository),
        };
        let asked = [Asked::Name(name.to_owned())];
        let added = addition::add(&store, &Options::default(), &Silent, &system, &asked)
            .map_err(|error| format!("{error:#}"))?;
        for one in &added {
            assert!(store.cache().get(&one.sha256).unwrap().is_some(), "{one:?} is in the cache");
        }
        Ok(added.iter().map(|added| format!("{} {}", added.name, added.version)).collect())
    }

    #[track_caller]
    fn refused(&self, repository: &Repository, part: &str) {
        let error = self.add(repository, "web").unwrap_err();
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

fn packages() -> Vec<Package> {
    vec![Package::new("web", "Depends: base, libweb\n"), Package::new("libweb", "")]
}

#[test]
fn a_suite_is_believed_by_its_key() {
    let bench = Bench::new();
    let mut files = Files::default();
    let text = Suite::new("stable", packages()).publish(&mut files);
    files.content.insert("/debian/dists/stable/InRelease".into(), bench.key.clearsign(&text));
    let server = Server::new(files);
    let repository = Repository {
        uri: server.url("/debian/"),
        suite: "stable".into(),
        components: vec!["main".into()],
        keyring: Some(bench.keyring("mine.gpg", &bench.key)),
    };
    assert_eq!(bench.add(&repository, "web").unwrap(), ["libweb 1.0", "web 1.0"]);
    bench
        .refused(&Repository { suite: "testing".into(), ..repository.clone() }, "no suite testing");
    let other = bench.keyring("other.gpg", &Key::new("other"));
    let distrusted = Repository { keyring: Some(other), ..repository.clone() };
    bench.refused(&distrusted, "no signature is good");
    // Who says that everybody is believed gets what is there.
    let trusted = Repository { keyring: None, ..repository };
    assert_eq!(bench.add(&trusted, "web").unwrap().len(), 2);
}

/// What `dpkg-scanpackages . > Packages` makes of a directory, and what apt-ftparchive and gpg add to that.
#[test]
fn a_directory_with_an_index_is_a_repository() {
    let bench = Bench::new();
    let place = bench.directory.path().join("repo");
    std::fs::create_dir(&place).unwrap();
    let mut index = String::new();
    for package in packages() {
        let (deb, file) = (package.deb(), format!("./{}_1.0.deb", package.name));
        std::fs::write(place.join(&file), &deb).unwrap();
        index += &format!(
            "{}Filename: {file}\nSize: {}\nSHA256: {}\n\n",
            package.stanza(),
            deb.len(),
            sha256(&deb)
        );
    }
    let (uri, suite) = (format!("file:{}", place.display()), "./".to_owned());
    let mut repository = Repository { uri, suite, components: Vec::new(), keyring: None };
    bench.refused(&repository, "has neither a Release nor Packages");
    std::fs::write(place.join("Packages"), &index).unwrap();
    assert_eq!(bench.add(&repository, "web").unwrap(), ["libweb 1.0", "web 1.0"]);
    repository.keyring = Some(bench.keyring("mine.gpg", &bench.key));
    bench.refused(&repository, "no suite ./");
    let listed = format!(" {} {} Packages\n", sha256(index.as_bytes()), index.len());
    let release = format!("Date: Sat, 09 Aug 2025 09:16:30 UTC\nSHA256:\n{listed}");
    std::fs::write(place.join("Release"), &release).unwrap();
    bench.refused(&repository, "it is not signed");
    std::fs::write(place.join("Release.gpg"), bench.key.detach(&release)).unwrap();
    assert_eq!(bench.add(&repository, "web").unwrap(), ["libweb 1.0", "web 1.0"]);
    // The index that was signed is in the cache, and good whatever lies there now.
    std::fs::remove_dir_all(bench.directory.path().join("store")).unwrap();
    std::fs::write(place.join("Packages"), index.replace("1.0\n", "1.1\n")).unwrap();
    bench.refused(&repository, "Packages");
}
