//! Debian's docker-registry, started for one test.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::place::Place;

pub(crate) struct Registry {
    child: Child,
    pub(crate) port: u16,
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Registry {
    /// One that lets everybody in, without encryption.
    pub(crate) fn start(place: &Place) -> Self {
        Self::start_with(place, "", "")
    }

    /// With further lines of its configuration: in `http`, and at the top.
    pub(crate) fn start_with(place: &Place, http: &str, top: &str) -> Self {
        // Another process may take the port in between.
        (0..5).find_map(|_| Self::try_start(place, http, top)).expect("docker-registry starts")
    }

    fn try_start(place: &Place, http: &str, top: &str) -> Option<Self> {
        let port = free_port();
        let data = place.path(&format!("registry-{port}"));
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
             http:\n  addr: 127.0.0.1:{port}\n  relativeurls: true\n{http}{top}",
            data.display()
        );
        let config = place.write(&format!("registry-{port}.yml"), text);
        let log = place.write(&format!("registry-{port}.log"), "");
        let log = std::fs::File::options().append(true).open(log).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("docker-registry is installed (`cargo xtask setup`)");
        let mut registry = Self { child, port };
        for _ in 0..1000 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(registry);
            }
            if registry.child.try_wait().unwrap().is_some() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// The name of an image there.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("localhost:{}/{name}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A proxy before a registry, which counts what is asked for.
pub(crate) struct Counting {
    pub(crate) port: u16,
    requests: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

impl Counting {
    pub(crate) fn before(registry: &Registry) -> Self {
        let target = registry.port;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = seen.clone();
                std::thread::spawn(move || pass(stream, target, &seen));
            }
        });
        Self { port, requests }
    }

    /// Method and path of every request so far, which are forgotten then.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

/// One request, one response, one connection.
fn pass(mut client: TcpStream, target: u16, seen: &std::sync::Mutex<Vec<String>>) -> Option<()> {
    let request = crate::http::read_request(&mut client)?;
    seen.lock().unwrap().push(format!("{} {}", request.method, request.path));
    let mut server = TcpStream::connect(("127.0.0.1", target)).ok()?;
    let head = request.head.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    server.write_all(head.as_bytes()).ok()?;
    // What is uploaded, until the client is done with the connection.
    let (mut from, mut to) = (client.try_clone().ok()?, server.try_clone().ok()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        // A client that was killed shall be gone for the registry too.
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let mut buffer = [0; 64 << 10];
    loop {
        let count = server.read(&mut buffer).ok()?;
        if count == 0 {
            let _ = client.shutdown(std::net::Shutdown::Both);
            return Some(());
        }
        client.write_all(&buffer[..count]).ok()?;
    }
}
