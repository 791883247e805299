//! The report for browsers, in a browser: headless Chromium, driven by its own driver (W3C WebDriver).

mod fixture;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use fixture::{debian, home, postroj, said};
use serde_json::{Value, json};

/// A browser, gone with its driver.
struct Browser {
    driver: Child,
    port: u16,
    session: String,
    profile: PathBuf,
}

impl Browser {
    fn open(width: u32) -> Self {
        let profile = home().join(format!("chromium-{}", std::process::id()));
        std::fs::create_dir_all(&profile).unwrap();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("HOME", &profile)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the package chromium-driver is installed (`cargo xtask setup`)");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.by_ref().find_map(|line| {
            let line = line.unwrap();
            line.rsplit_once("successfully on port ")?.1.trim_end_matches('.').parse().ok()
        });
        // What it goes on saying must have somewhere to go.
        std::thread::spawn(move || lines.for_each(drop));
        let mut browser =
            Self { driver, port: port.unwrap(), session: String::new(), profile: profile.clone() };
        let mut args = vec![
            "--headless=new".to_owned(),
            "--disable-gpu".into(),
            "--disable-dev-shm-usage".into(),
            "--no-first-run".into(),
            format!("--window-size={width},1000"),
            format!("--user-data-dir={}", profile.join("data").display()),
        ];
        // Its sandbox refuses root, and hosts without user namespaces; the page is our own.
        args.push("--no-sandbox".into());
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": args },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let made = browser.call("POST", "/session", &wanted);
        browser.session = made["sessionId"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        browser
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        // It keeps the connection open in any case.
        let mut answer = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            answer.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        answer.read_exact(&mut body).unwrap();
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert!(answer["value"]["error"].is_null(), "{method} {path}: {answer}");
        answer["value"].clone()
    }

    fn post(&self, what: &str, body: &Value) -> Value {
        self.call("POST", &format!("/session/{}/{what}", self.session), body)
    }

    /// What a script in the page gives.
    fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
    }

    fn find(&self, selector: &str) -> String {
        let found = self.post("element", &json!({ "using": "css selector", "value": selector }));
        found.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned()
    }

    fn click(&self, selector: &str) {
        let element = self.find(selector);
        self.post(&format!("element/{element}/click"), &json!({}));
    }

    fn type_into(&self, selector: &str, text: &str) {
        let element = self.find(selector);
        self.post(&format!("element/{element}/value"), &json!({ "text": text }));
    }

    fn rows(&self) -> u64 {
        self.run("return document.querySelectorAll('#grid tbody tr').length").as_u64().unwrap()
    }

    fn screenshot(&self) -> Vec<u8> {
        let encoded =
            self.call("GET", &format!("/session/{}/screenshot", self.session), &Value::Null);
        encoded.as_str().unwrap().as_bytes().to_vec()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.call("DELETE", &format!("/session/{}", self.session), &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

#[test]
fn the_page_works_in_a_browser() {
    let image = debian("debian-12");
    let page = home().join(format!("page-{}.html", std::process::id()));
    let report = format!("html={}", page.display());
    let nasty = "echo '</script><img src=x onerror=alert(1)>'; exit 1";
    let args = [
        "probe",
        "--fast",
        "--image",
        &image,
        "--image",
        "dir:/no/where",
        "--check-unit",
        "systemd-journald",
        "--check-cmd",
        nasty,
        "--report",
        &report,
    ];
    let told = said(&mut postroj(&args));
    assert_eq!(told.code, 1, "{told:?}");
    for width in [1200, 390] {
        let browser = Browser::open(width);
        browser.post("url", &json!({ "url": format!("file://{}", page.display()) }));
        assert_eq!(browser.rows(), 2);
        // The first that is not well is open already.
        let text = browser.run("return document.getElementById('detail').innerText");
        let text = text.as_str().unwrap();
        assert!(text.contains("</script><img src=x") && text.contains("postroj probe"), "{text}");
        assert!(
            text.contains("systemd-journald.service") && text.contains("active (running)"),
            "{text}"
        );
        browser.click("button[data-verdict=error]");
        assert_eq!(browser.rows(), 1);
        browser.click("#grid tbody tr");
        let text = browser.run("return document.getElementById('detail').innerText");
        assert!(text.as_str().unwrap().contains("cannot open /no/where"), "{text}");
        browser.click("button[data-verdict=all]");
        browser.type_into("#filters input", "debian");
        assert_eq!(browser.rows(), 1);
        browser.click("#grid tbody tr");
        browser.click("details summary");
        let log = browser.run("return document.querySelector('details[open] pre').innerText");
        assert!(log.as_str().unwrap().contains("systemd"), "{log}");
        let bars = browser.run("return document.querySelectorAll('.bar span').length");
        assert_eq!(bars, 4);
        // Wide tables scroll by themselves: the page does not.
        let wider =
            "return document.documentElement.scrollWidth > document.documentElement.clientWidth";
        assert_eq!(browser.run(wider), false, "at a width of {width}");
        assert!(browser.screenshot().len() > 10_000);
        let log = browser.post("se/log", &json!({ "type": "browser" }));
        assert_eq!(log, json!([]), "the console is clean");
    }
    std::fs::remove_file(page).unwrap();
}
