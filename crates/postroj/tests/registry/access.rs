//! Registries that do not let everybody in, or that are encrypted.

use std::path::PathBuf;
use std::process::Command;

use crate::fixture::{fails, out, said};
use crate::http::{Server, respond};
use crate::images::{skopeo, small};
use crate::place::{Place, tool};
use crate::server::Registry;

/// An authority, and a certificate of `localhost` that it signed; returns the authority's.
fn certificates(place: &Place) -> PathBuf {
    let script = "
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=authority \
            -keyout ca.key -out ca.crt
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout server.key -out server.csr
        echo 'subjectAltName=DNS:localhost,IP:127.0.0.1' >ext
        openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile ext -out server.crt";
    let mut shell = Command::new("sh");
    tool(shell.args(["-ec", script]).current_dir(place.path("")));
    place.path("ca.crt")
}

fn push(place: &Place, registry: &Registry, name: &str, credentials: &[&str]) {
    let from = format!("oci:{}", small(place, "t", "inside"));
    let to = format!("docker://{}", registry.image(name));
    let mut args = vec!["copy", "--quiet", "--dest-tls-verify=false"];
    args.extend(credentials);
    args.extend([&from[..], &to]);
    tool(&mut skopeo(&args));
}

/// Pulls, pushes to another repository, forgets, and pulls that by its digest; the digest.
fn there_and_back(place: &Place, registry: &Registry, name: &str) -> String {
    out(&mut place.postroj(&["pull", name]));
    let pushed = out(&mut place.postroj(&["push", name, &registry.image("pushed/by/us:t")]));
    let digest = pushed.split("digest: ").nth(1).unwrap().lines().next().unwrap().to_owned();
    out(&mut place.postroj(&["rmi", name]));
    out(&mut place.postroj(&["system", "prune"]));
    assert_eq!(place.stored("layers"), [""; 0]);
    let by_digest = format!("{}@{digest}", registry.image("pushed/by/us"));
    assert_eq!(out(&mut place.postroj(&["run", &by_digest, "cat", "/etc/mark"])), "inside");
    out(&mut place.postroj(&["rmi", &by_digest]));
    digest
}

#[test]
fn plain() {
    let place = Place::new();
    let registry = Registry::start(&place);
    push(&place, &registry, "a:t", &[]);
    there_and_back(&place, &registry, &registry.image("a:t"));
}

#[test]
fn encrypted_with_an_authority_of_its_own() {
    let place = Place::new();
    let authority = certificates(&place);
    let http = format!(
        "  tls: {{certificate: {}, key: {}}}\n",
        place.path("server.crt").display(),
        place.path("server.key").display()
    );
    let registry = Registry::start_with(&place, &http, "");
    push(&place, &registry, "a:t", &[]);
    let name = registry.image("a:t");
    fails(&mut place.postroj(&["pull", &name]), 125, &["nobody here vouches for", "certs.d"]);
    place.configure(&format!(
        "[registry.hosts.\"localhost:{}\"]\nca = \"{}\"\n",
        registry.port,
        authority.display()
    ));
    there_and_back(&place, &registry, &name);
    out(&mut place.postroj(&["pull", &name]));
    // Where podman looks.
    place.configure("");
    let directory = format!("home/.config/containers/certs.d/localhost:{}", registry.port);
    place.write(&format!("{directory}/ca.crt"), std::fs::read(authority).unwrap());
    assert!(out(&mut place.postroj(&["pull", &name])).contains("up to date"));
    // And as this machine's other name, without any certificate, and with a wrong one.
    let other = format!("127.0.0.1:{}/a:t", registry.port);
    fails(&mut place.postroj(&["pull", &other]), 125, &["nobody here vouches for"]);
    place.configure(&format!(
        "[registry.hosts.\"127.0.0.1:{}\"]\nca = \"/etc/passwd\"\n",
        registry.port
    ));
    fails(&mut place.postroj(&["pull", &other]), 125, &["/etc/passwd holds no certificate"]);
}

#[test]
fn with_a_password() {
    let place = Place::new();
    let hashes = tool(Command::new("htpasswd").args(["-Bbn", "ann", "secret"]));
    let hashes = place.write("htpasswd", hashes + "\n");
    let top = format!("auth:\n  htpasswd: {{realm: basic, path: {}}}\n", hashes.display());
    let registry = Registry::start_with(&place, "", &top);
    push(&place, &registry, "a:t", &["--dest-creds=ann:secret"]);
    let name = registry.image("a:t");
    let host = format!("localhost:{}", registry.port);
    fails(
        &mut place.postroj(&["pull", &name]),
        125,
        &["does not let us", &format!("postroj login {host}")],
    );
    let login = |password: &str| {
        let mut command = place.postroj(&["login", "-u", "ann", "--password-stdin", &host]);
        let file = place.write("password", password);
        command.stdin(std::fs::File::open(file).unwrap());
        said(&mut command)
    };
    let wrong = login("wrong\n");
    assert_eq!(wrong.code, 125, "{wrong:?}");
    assert!(wrong.err.contains(&format!("logging in to {host}")), "{wrong:?}");
    assert!(!place.path("auth.json").exists());
    let right = login("secret\n");
    assert_eq!((right.code, right.out.trim()), (0, "Login Succeeded"), "{right:?}");
    assert_eq!(out(&mut place.postroj(&["run", &name, "cat", "/etc/mark"])), "inside");
    there_and_back(&place, &registry, &name);
    out(&mut place.postroj(&["pull", &name]));
    let mode = std::fs::metadata(place.path("auth.json")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
    // skopeo understands what was written.
    let mut inspect = skopeo(&["inspect", "--tls-verify=false", &format!("docker://{name}")]);
    tool(inspect.env("REGISTRY_AUTH_FILE", place.path("auth.json")));
    out(&mut place.postroj(&["logout", &host]));
    fails(&mut place.postroj(&["logout", &host]), 125, &["no such credential"]);
    fails(&mut place.postroj(&["pull", &name]), 125, &["does not let us"]);

    // docker's file, and a helper.
    let config = format!(r#"{{"credHelpers":{{"{host}":"test"}}}}"#);
    place.write("docker/config.json", config);
    let helper = place.write(
        "bin/docker-credential-test",
        "#!/bin/sh\nread server\necho \"{\\\"Username\\\":\\\"ann\\\",\\\"Secret\\\":\\\"secret\\\"}\"\n",
    );
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(helper, executable).unwrap();
    let mut helped = place.postroj(&["pull", &name]);
    let path = format!("{}:{}", place.path("bin").display(), std::env::var("PATH").unwrap());
    helped
        .env_remove("REGISTRY_AUTH_FILE")
        .env("DOCKER_CONFIG", place.path("docker"))
        .env("PATH", path);
    assert!(out(&mut helped).contains("up to date"));
}

/// Signs whatever it is asked for, for ann, and for nobody else.
fn token_server(place: &Place) -> Server {
    use std::io::Write;
    let directory = place.path("");
    Server::start(move |request, stream| {
        // ann:secret
        if request.header("authorization") != Some("Basic YW5uOnNlY3JldA==") {
            let _ = stream.write_all(&respond("401 Unauthorized", &[], b"{}"));
            return;
        }
        let path = request.path.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
        let scope = |scope: &str| {
            let mut parts = scope.split('&').next()?.splitn(3, ':').skip(1);
            let (name, actions) = (parts.next()?, parts.next()?.replace(',', "\",\""));
            Some(format!(r#"{{"type":"repository","name":"{name}","actions":["{actions}"]}}"#))
        };
        let access: Vec<String> = path.split("scope=").skip(1).filter_map(scope).collect();
        let access = access.join(",");
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let claims = format!(
            r#"{{"iss":"test","sub":"ann","aud":"registry","exp":{},"nbf":{},"iat":{now},"jti":"1","access":[{access}]}}"#,
            now + 300,
            now - 60
        );
        let script = format!(
            "b() {{ openssl base64 -A | tr '+/' '-_' | tr -d =; }}
             certificate=$(openssl x509 -in token.crt -outform DER | openssl base64 -A)
             head=$(printf '{{\"alg\":\"RS256\",\"typ\":\"JWT\",\"x5c\":[\"%s\"]}}' \"$certificate\" | b)
             claims=$(printf '%s' '{claims}' | b)
             printf '%s.%s.%s' $head $claims $(printf '%s.%s' $head $claims | openssl dgst -sha256 -sign token.key | b)"
        );
        let token = tool(Command::new("sh").args(["-ec", &script]).current_dir(&directory));
        let body = format!(r#"{{"token":"{token}"}}"#);
        let _ = stream.write_all(&respond("200 OK", &[], body.as_bytes()));
    })
}

#[test]
fn with_a_token() {
    let place = Place::new();
    let mut make = Command::new("openssl");
    make.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "30",
        "-subj",
        "/CN=token",
    ]);
    tool(make.args(["-keyout", "token.key", "-out", "token.crt"]).current_dir(place.path("")));
    let server = token_server(&place);
    let top = format!(
        "auth:\n  token: {{realm: 'http://localhost:{}/token', service: registry, issuer: test, rootcertbundle: {}}}\n",
        server.port,
        place.path("token.crt").display()
    );
    let registry = Registry::start_with(&place, "", &top);
    push(&place, &registry, "a/b:t", &["--dest-creds=ann:secret"]);
    server.seen.lock().unwrap().clear();
    let name = registry.image("a/b:t");
    fails(&mut place.postroj(&["pull", &name]), 125, &["asking for a token", "postroj login"]);
    let host = format!("localhost:{}", registry.port);
    out(&mut place.postroj(&["login", "-u", "ann", "-p", "secret", &host]));
    server.seen.lock().unwrap().clear();
    assert_eq!(out(&mut place.postroj(&["run", &name, "cat", "/etc/mark"])), "inside");
    let asked = server.requests();
    assert_eq!(asked.len(), 1, "one token for all requests: {asked:?}");
    assert!(asked[0].contains("scope=repository:a/b:pull"), "{asked:?}");
    let raw =
        ["inspect", "--tls-verify=false", "--format={{.Digest}}", &format!("docker://{name}")];
    let original = tool(skopeo(&raw).env("REGISTRY_AUTH_FILE", place.path("auth.json")));
    server.seen.lock().unwrap().clear();
    // The same to the last bit: a token for both repositories let the registry take the layers over.
    assert_eq!(there_and_back(&place, &registry, &name), original);
    let asked = server.requests().join(" ").replace("%3A", ":").replace("%2F", "/");
    assert!(asked.contains("scope=repository:a/b:pull"), "{asked}");
    let both = "scope=repository:pushed/by/us:pull,push&scope=repository:a/b:pull";
    assert!(asked.contains(both), "{asked}");
}
