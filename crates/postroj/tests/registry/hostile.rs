//! What a hostile or broken registry can do, and what is said of it.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fixture::{fails, out};
use crate::http::{Request, Server, respond};
use crate::images::pack_files;
use crate::place::Place;

/// An image to be served, and to be lied about.
#[derive(Clone)]
struct Image {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

fn sha256(bytes: &[u8]) -> String {
    use std::process::{Command, Stdio};
    let mut child =
        Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    format!("sha256:{}", String::from_utf8_lossy(&output.stdout[..64]))
}

impl Image {
    fn new(place: &Place) -> Self {
        let layer = std::fs::read(pack_files(place, "l.tar", &[("hello", "world")])).unwrap();
        Self::of(layer.clone(), &sha256(&layer))
    }

    fn of(layer: Vec<u8>, diff_id: &str) -> Self {
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/hello"]}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
        );
        Self { layer, config: config.into_bytes(), manifest: Vec::new() }.with_manifest()
    }

    fn with_manifest(mut self) -> Self {
        self.manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},
               "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}]}}"#,
            sha256(&self.config),
            self.config.len(),
            sha256(&self.layer),
            self.layer.len()
        )
        .into_bytes();
        self
    }

    fn answer(&self, request: &Request) -> Vec<u8> {
        let last = request.path.rsplit('/').next().unwrap();
        if request.path.contains("/manifests/") {
            return respond("200 OK", &[], &self.manifest);
        }
        match [&self.config, &self.layer].into_iter().find(|blob| sha256(blob) == last) {
            Some(blob) => respond("200 OK", &[], blob),
            None => respond("404 Not Found", &[], b""),
        }
    }
}

type Answer = Box<dyn Fn(&Request, &mut TcpStream) + Send + Sync>;

/// Whether a request is for the layer.
fn for_layer(image: &Image, request: &Request) -> bool {
    request.path.ends_with(&sha256(&image.layer))
}

/// Serves the image, except for the layer.
fn layer(
    image: &Image,
    serve: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static,
) -> Answer {
    let image = image.clone();
    Box::new(move |request, stream| {
        if for_layer(&image, request) {
            serve(request, stream);
        } else {
            let _ = stream.write_all(&image.answer(request));
        }
    })
}

fn whole(image: Image) -> Answer {
    Box::new(move |request, stream| drop(stream.write_all(&image.answer(request))))
}

fn fixed(response: Vec<u8>) -> impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static {
    move |_, stream| drop(stream.write_all(&response))
}

#[test]
fn what_is_wrong_is_said_and_nothing_of_it_stays() {
    let place = Place::new();
    let good = Image::new(&place);
    let size = good.layer.len();
    let mut changed = good.layer.clone();
    changed[0] = b'j';
    let gzip = |bytes: &[u8]| {
        let tar = place.write("plain", bytes);
        std::process::Command::new("gzip").arg("-c").arg(tar).output().unwrap().stdout
    };
    let bomb = {
        // 40 MB of zeros in one file, 40 kB compressed.
        let file = place.write("bomb.d/zeros", vec![0; 40 << 20]);
        let tar = place.text("bomb.tar");
        crate::place::tool(
            std::process::Command::new("tar")
                .arg("-C")
                .arg(file.parent().unwrap())
                .args(["-cf", &tar, "zeros"]),
        );
        std::fs::read(tar).unwrap()
    };
    let trailing = [&good.layer[..], &vec![0; 60 << 20]].concat();
    let escaping = {
        let tar = place.text("escape.tar");
        place.write("x", "x");
        let mut command = std::process::Command::new("tar");
        command.args(["-P", "--transform=s,x,../../../../tmp/postroj-escaped,", "-cf", &tar, "x"]);
        crate::place::tool(command.current_dir(place.path("")));
        std::fs::read(tar).unwrap()
    };
    let with = |edit: &dyn Fn(String) -> String| {
        let manifest = edit(String::from_utf8(good.manifest.clone()).unwrap()).into_bytes();
        whole(Image { manifest, ..good.clone() })
    };
    let (layer_digest, wrong) = (sha256(&good.layer), format!("sha256:{}", "0".repeat(64)));
    let cases: Vec<(&str, Answer, &[&str])> = vec![
        (
            "another digest",
            layer(&good, fixed(respond("200 OK", &[], &changed))),
            &["layer sha256:", "its digest is", "should be"],
        ),
        (
            "shorter",
            layer(&good, fixed(respond("200 OK", &[], &good.layer[..size - 512]))),
            &["the download broke off", "of 10240 bytes"],
        ),
        (
            "longer",
            layer(&good, fixed(respond("200 OK", &[], &[&good.layer[..], b"x"].concat()))),
            &["should have 10240 bytes", "10241"],
        ),
        (
            "longer than it said",
            {
                let body = [&good.layer[..], b"more"].concat();
                layer(&good, move |_, stream| {
                    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
                    drop(stream.write_all(&[head.as_bytes(), &body].concat()));
                })
            },
            &["larger than the 10240 bytes"],
        ),
        (
            "truncated",
            layer(
                &good,
                fixed(respond("200 OK", &[("content-length", "10240")], &good.layer[..3000])),
            ),
            &["the download broke off after 3000 of 10240 bytes"],
        ),
        (
            "a stall",
            {
                let body = good.layer[..3000].to_vec();
                layer(&good, move |request, stream| {
                    if request.header("range").is_none() {
                        drop(stream.write_all(&respond(
                            "200 OK",
                            &[("content-length", "10240")],
                            &body,
                        )));
                    }
                    let _ = stream.flush();
                    // Until the other end gives up.
                    let _ = std::io::Read::read(stream, &mut [0; 1]);
                })
            },
            &["timeout"],
        ),
        (
            "redirects in a circle",
            layer(
                &good,
                fixed(respond("307 Temporary Redirect", &[("location", "/v2/x/blobs/again")], b"")),
            ),
            &[],
        ),
        (
            "a redirect to nowhere",
            layer(&good, fixed(respond("302 Found", &[("location", "ftp://x/")], b""))),
            &["sent us to", "no address"],
        ),
        (
            "no such layer",
            layer(
                &good,
                fixed(respond(
                    "404 Not Found",
                    &[],
                    b"{\"errors\":[{\"code\":\"BLOB_UNKNOWN\",\"message\":\"gone.\"}]}",
                )),
            ),
            &["does not have it (gone)"],
        ),
        (
            "too many requests",
            layer(
                &good,
                fixed(respond(
                    "429 Too Many Requests",
                    &[("retry-after", "0")],
                    b"{\"errors\":[{\"message\":\"slow down\"}]}",
                )),
            ),
            &["takes no more requests", "429", "slow down", "postroj login"],
        ),
        (
            "a broken registry",
            layer(&good, fixed(respond("500 Internal Server Error", &[], b"<html>"))),
            &["HTTP status 500"],
        ),
        (
            "a wrong layer in the manifest",
            with(&|m| m.replace(&layer_digest, &wrong)),
            &["does not have it"],
        ),
        (
            "a wrong size in the manifest",
            with(&|m| m.replace("10240", "10239")),
            &["should have 10239 bytes", "10240"],
        ),
        (
            "no digest",
            with(&|m| m.replace(&layer_digest, "sha256:12")),
            &["reading the manifest", "is no SHA-256 digest"],
        ),
        (
            "a path for a digest",
            with(&|m| m.replace(&layer_digest, "../../etc/passwd")),
            &["is no SHA-256 digest"],
        ),
        (
            "an unknown layer",
            with(&|m| m.replace("layer.v1.tar", "layer.v1.tar+encrypted")),
            &["unknown kind"],
        ),
        ("no JSON", with(&|_| "<html>".into()), &["is no manifest"]),
        ("an old schema", with(&|_| r#"{"schemaVersion":1}"#.into()), &["schema 1"]),
        (
            "an index without images",
            with(&|_| r#"{"schemaVersion":2,"manifests":[]}"#.into()),
            &["no image for linux/"],
        ),
        (
            "an artifact",
            with(&|m| m.replace("oci.image.config", "cncf.helm.config")),
            &["an artifact"],
        ),
        (
            "a manifest without end",
            with(&|m| m + &" ".repeat(5 << 20)),
            &["larger than 4194304 bytes"],
        ),
        (
            "another content",
            whole(Image::of(good.layer.clone(), &wrong)),
            &["its content has the digest", "should have"],
        ),
        (
            "a configuration of another system",
            {
                let mut image = good.clone();
                image.config = String::from_utf8(image.config)
                    .unwrap()
                    .replace("linux", "windows")
                    .into_bytes();
                whole(image.with_manifest())
            },
            &["windows"],
        ),
        (
            "more layers than it says",
            {
                let mut image = good.clone();
                image.config = String::from_utf8(image.config)
                    .unwrap()
                    .replace("[\"sha256", &format!("[\"{wrong}\",\"sha256"))
                    .into_bytes();
                whole(image.with_manifest())
            },
            &["the manifest has 1 layers, and the configuration 2"],
        ),
        (
            "nothing that is an archive",
            {
                let text = b"not a tar archive at all".repeat(100);
                whole(Image::of(text.clone(), &sha256(&text)))
            },
            &["no tar archive"],
        ),
        (
            "broken compression",
            {
                let mut bytes = gzip(&good.layer);
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0xff;
                whole(Image::of(bytes, &sha256(&good.layer)))
            },
            &["gzip"],
        ),
        ("a bomb of one file", whole(Image::of(gzip(&bomb), &sha256(&bomb))), &["zeros", "bytes"]),
        (
            "a bomb behind the end",
            whole(Image::of(gzip(&trailing), &sha256(&trailing))),
            &["unpacks to more than"],
        ),
        (
            "a way out",
            whole(Image::of(escaping.clone(), &sha256(&escaping))),
            &["leads out of the root"],
        ),
    ];
    place.configure(
        "[registry]\ntimeout = 1\nmax-layer-bytes = 10000000\nmax-layer-entries = 20000\n",
    );
    for (case, answer, parts) in cases {
        let server = Server::start(answer);
        let name = format!("localhost:{}/x:t", server.port);
        let said = crate::fixture::said(&mut place.postroj(&["pull", &name]));
        assert_eq!(said.code, 125, "{case}: {said:?}");
        let error = said.err.lines().last().unwrap();
        for part in parts {
            assert!(error.contains(part), "{case}: does not say {part:?}: {said:?}");
        }
        assert!(error.contains(&format!("pulling {name}")), "{case}: {said:?}");
        if place.path("store/layers").exists() {
            assert_eq!(place.stored("layers"), [""; 0], "{case}");
            assert_eq!(place.stored("tmp"), [""; 0], "{case}");
        }
    }
    assert!(!std::path::Path::new("/tmp/postroj-escaped").exists());
    assert_eq!(out(&mut place.postroj(&["images", "-q"])), "");
}

#[test]
fn redirects_end_and_do_not_carry_what_is_secret() {
    let place = Place::new();
    let image = Image::new(&place);
    let served = image.clone();
    let elsewhere =
        Server::start(move |request, stream| drop(stream.write_all(&served.answer(request))));
    let target = format!("http://127.0.0.1:{}", elsewhere.port);
    let served = image.clone();
    let registry = Server::start(move |request, stream| {
        // ann:secret
        let response = if request.header("authorization") != Some("Basic YW5uOnNlY3JldA==") {
            respond("401 Unauthorized", &[("www-authenticate", "Basic realm=\"x\"")], b"")
        } else if for_layer(&served, request) {
            let target = format!("{target}{}", request.path);
            respond("307 Temporary Redirect", &[("location", &target)], b"")
        } else {
            served.answer(request)
        };
        drop(stream.write_all(&response));
    });
    let host = format!("localhost:{}", registry.port);
    place.write("auth.json", format!(r#"{{"auths":{{"{host}":{{"auth":"YW5uOnNlY3JldA=="}}}}}}"#));
    out(&mut place.postroj(&["pull", &format!("{host}/x:t")]));
    let seen = elsewhere.seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), None);
    drop(seen);

    let place = Place::new();
    let circle = Server::start({
        let image = image.clone();
        move |request, stream| {
            let response = if request.path.contains("/blobs/") {
                respond("302 Found", &[("location", &request.path)], b"")
            } else {
                image.answer(request)
            };
            drop(stream.write_all(&response));
        }
    });
    fails(
        &mut place.postroj(&["pull", "--force", &format!("localhost:{}/y:t", circle.port)]),
        125,
        &["in circles"],
    );
}

#[test]
fn a_download_that_breaks_off_is_resumed() {
    for ranges in [true, false] {
        let place = Place::new();
        let image = Image::new(&place);
        let (served, count) = (image.clone(), Arc::new(AtomicUsize::new(0)));
        let server = Server::start(layer(&image, move |request, stream| {
            let layer = &served.layer;
            let from: usize = match request.header("range") {
                Some(range) if ranges => {
                    range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap()
                }
                _ => 0,
            };
            let n = count.fetch_add(1, Ordering::Relaxed) + 1;
            // Each time a little further than before.
            let end = (n * 2000).min(layer.len());
            let range = format!("bytes {from}-{}/{}", layer.len() - 1, layer.len());
            let length = (layer.len() - from).to_string();
            let headers = [("content-range", &range[..]), ("content-length", &length)];
            let (status, headers) = if from > 0 {
                ("206 Partial Content", &headers[..])
            } else {
                ("200 OK", &headers[1..])
            };
            drop(stream.write_all(&respond(status, headers, &layer[from.min(end)..end])));
        }));
        let name = format!("localhost:{}/x:t", server.port);
        let pulled = crate::fixture::said(&mut place.postroj(&["pull", &name]));
        assert_eq!(pulled.code, 0, "{pulled:?}");
        assert_eq!(server.requests().iter().filter(|r| r.contains("/blobs/")).count(), 7);
        out(&mut place.postroj(&["rmi", &name]));
    }
}

#[test]
fn a_tag_that_changes_in_between_is_one_image_or_the_other() {
    let place = Place::new();
    let old = Image::new(&place);
    let layer = std::fs::read(pack_files(&place, "new.tar", &[("hello", "new")])).unwrap();
    let new = Image::of(layer.clone(), &sha256(&layer));
    let count = Arc::new(AtomicUsize::new(0));
    let server = Server::start(move |request, stream| {
        let newer = count.load(Ordering::Relaxed) > 0;
        let response = if request.path.ends_with("/manifests/t") {
            // Whatever comes next is about the new one.
            count.fetch_add(1, Ordering::Relaxed);
            if newer { new.answer(request) } else { old.answer(request) }
        } else if request.path.contains(&sha256(&old.config)) || for_layer(&old, request) {
            old.answer(request)
        } else if request.path.contains("/manifests/sha256:") {
            respond("404 Not Found", &[], b"")
        } else {
            new.answer(request)
        };
        drop(stream.write_all(&response));
    });
    let name = format!("localhost:{}/x:t", server.port);
    assert!(out(&mut place.postroj(&["pull", &name])).contains("Downloaded image"));
    assert!(out(&mut place.postroj(&["pull", &name])).contains("newer"));
    assert!(out(&mut place.postroj(&["pull", &name])).contains("up to date"));
}
