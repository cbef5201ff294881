//! Chromium without a window, by `WebDriver`: <https://www.w3.org/TR/webdriver2/>.
//!
//! Its processes are in a namespace of their own, which ends with the first of them,
//! and its profile is in a folder of its own: neither is there after the drop.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::namespace::{Namespace, output, start};

/// Only a failing test waits for so long.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the browser may take for one command: it starts slowly where others are at
/// work too.
const COMMAND: Duration = Duration::from_mins(2);
/// The key under which an element is passed (`WebDriver`, section 12.1).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Keys that write nothing (`WebDriver`, section 17.4.2).
pub const TAB: char = '\u{e004}';
pub const ENTER: char = '\u{e007}';
pub const SHIFT: char = '\u{e008}';

/// A browser with one page, in a network namespace.
pub struct Browser<'n> {
    namespace: &'n Namespace,
    process: Child,
    output: BufReader<ChildStdout>,
    port: u16,
    session: String,
    _profile: TempDir,
}

/// An element of the page.
pub struct Element(String);

impl<'n> Browser<'n> {
    pub fn start(namespace: &'n Namespace) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "chromedriver", "--port=0"])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(["HOME", "TMPDIR"].map(|name| (name, profile.path())))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = namespace.enter(|| start(&mut command));
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        let port = loop {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "chromedriver tells its port");
            if let Some((_, port)) = line.split_once("successfully on port ") {
                break port.trim().trim_end_matches('.').parse().unwrap();
            }
        };
        let mut browser =
            Self { namespace, process, output, port, session: String::new(), _profile: profile };
        let options = json!({ "args": ["--headless", "--no-sandbox", "--disable-gpu",
            "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run",
            "--force-color-profile=srgb", "--window-size=1280,900"] });
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
            // A dialog that nobody expects stays, so that it is found.
            "unhandledPromptBehavior": "ignore",
        } } });
        let session = browser.send("POST", "/session", &capabilities).unwrap();
        session["sessionId"].as_str().unwrap().clone_into(&mut browser.session);
        browser
    }

    /// The value of the answer, or the code of the error and what it says.
    fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let to = (Ipv4Addr::LOCALHOST, self.port).into();
        let mut stream = self.namespace.enter(|| TcpStream::connect_timeout(&to, COMMAND).unwrap());
        stream.set_read_timeout(Some(COMMAND)).unwrap();
        let body = if method == "POST" { body.to_string() } else { String::new() };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        // It leaves the connection open, whatever it is asked for.
        let mut answer = BufReader::new(stream);
        let mut line = || {
            let mut line = String::new();
            answer.read_line(&mut line).unwrap_or_else(|error| panic!("{path}: {error}"));
            line.trim_end().to_lowercase()
        };
        let is_done = line().contains(" 200 ");
        let mut length = 0;
        loop {
            match line().split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse().unwrap(),
                Some(_) => {}
                None => break,
            }
        }
        let mut text = vec![0; length];
        answer.read_exact(&mut text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let value = serde_json::from_slice::<Value>(&text).unwrap()["value"].take();
        if is_done {
            return Ok(value);
        }
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Err(format!("{}: {}", text("error"), text("message")))
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        self.send(method, &format!("/session/{}{path}", self.session), body)
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_call(method, path, body).unwrap_or_else(|error| panic!("{path} {body}: {error}"))
    }

    /// Goes to a page, and waits until it is loaded.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.call("POST", "/url", &json!({ "url": url }));
    }

    pub fn url(&self) -> String {
        self.call("GET", "/url", &Value::Null).as_str().unwrap().to_owned()
    }

    /// What a script returns, which has `arguments`.
    #[track_caller]
    pub fn script(&self, script: &str, arguments: &Value) -> Value {
        let body = json!({ "script": script, "args": arguments });
        self.call("POST", "/execute/sync", &body)
    }

    /// What an expression is.
    #[track_caller]
    pub fn value(&self, expression: &str) -> Value {
        self.script(&format!("return {expression};"), &json!([]))
    }

    #[track_caller]
    pub fn text(&self, expression: &str) -> String {
        let value = self.value(expression);
        value.as_str().unwrap_or_else(|| panic!("{expression}: {value}")).to_owned()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn until(&self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.value(expression) != true {
            let page = || self.text("document.body.innerText.slice(0, 1500)");
            assert!(Instant::now() < deadline, "never: {expression}\n{}", page());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The first element that a selector of CSS finds.
    #[track_caller]
    pub fn find(&self, selector: &str) -> Element {
        let by = json!({ "using": "css selector", "value": selector });
        Element(self.call("POST", "/element", &by)[ELEMENT].as_str().unwrap().to_owned())
    }

    /// All elements that it finds.
    #[track_caller]
    pub fn find_all(&self, selector: &str) -> Vec<Element> {
        let by = json!({ "using": "css selector", "value": selector });
        let found = self.call("POST", "/elements", &by);
        let of = |it: &Value| Element(it[ELEMENT].as_str().unwrap().to_owned());
        found.as_array().unwrap().iter().map(of).collect()
    }

    #[track_caller]
    pub fn click(&self, element: &Element) {
        self.call("POST", &format!("/element/{}/click", element.0), &json!({}));
    }

    /// Role and name, as screen readers are told them.
    #[track_caller]
    pub fn told(&self, element: &Element) -> (String, String) {
        let get = |what: &str| {
            let value = self.call("GET", &format!("/element/{}/{what}", element.0), &Value::Null);
            value.as_str().unwrap().to_owned()
        };
        (get("computedrole"), get("computedlabel"))
    }

    /// Presses and releases one key after the other, wherever the focus is; with Shift
    /// held down from where that is.
    #[track_caller]
    pub fn press(&self, keys: &str) {
        let mut actions = Vec::new();
        for key in keys.chars() {
            actions.push(json!({ "type": "keyDown", "value": key }));
            if key != SHIFT {
                actions.push(json!({ "type": "keyUp", "value": key }));
            }
        }
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions });
        self.call("POST", "/actions", &json!({ "actions": [keyboard] }));
        self.call("DELETE", "/actions", &Value::Null);
    }

    /// The text of the dialog that is open, if one is.
    pub fn dialog(&self) -> Option<String> {
        let text = self.try_call("GET", "/alert/text", &Value::Null).ok()?;
        Some(text.as_str().unwrap_or_default().to_owned())
    }

    /// What the browser complained of since the last call: errors of scripts, what the
    /// policy has refused, files that are missing.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.call("POST", "/se/log", &json!({ "type": "browser" }));
        let text = |entry: &Value| format!("{} {}", entry["level"], entry["message"]);
        log.as_array().unwrap().iter().map(text).collect()
    }

    /// A command of the browser's own protocol.
    #[track_caller]
    fn devtools(&self, command: &str, parameters: &Value) {
        self.call("POST", "/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }));
    }

    /// As if the reader preferred `light` or `dark`.
    pub fn prefer(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": [feature] }));
    }

    /// As if the screen had this size.
    pub fn resize(&self, width: u16, height: u16) {
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            &json!({ "width": width, "height": height, "deviceScaleFactor": 1,
                     "mobile": width < 500 }),
        );
    }

    /// What is seen, as PNG.
    pub fn screenshot(&self) -> Vec<u8> {
        let text = self.call("GET", "/screenshot", &Value::Null);
        let mut decode = Command::new("base64");
        let decoded = output(decode.arg("--decode"), text.as_str().unwrap().as_bytes());
        assert!(decoded.status.success());
        decoded.stdout
    }

    /// As if the reader had switched scripts off.
    pub fn disable_scripts(&self) {
        self.devtools("Emulation.setScriptExecutionDisabled", &json!({ "value": true }));
    }
}

impl Drop for Browser<'_> {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
        // All of them have this open: at its end none is left.
        _ = self.output.read_to_end(&mut Vec::new());
    }
}
