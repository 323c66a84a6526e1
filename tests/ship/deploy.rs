//! Deployment files start this program with the privileges that the documentation states, and no others.
//!
//! What needs helm, container tools or a booted systemd is in tests/packages (`make test-packages`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::exposition::Exposition;
use crate::support::fake::Tree;
use crate::support::netns::Netns;
use crate::support::program::{HERE, NATWATCH, Run, natwatch};
use crate::support::tools::{expect_success, require, require_root};

/// Long-running units and others, with the highest exposure that `systemd-analyze security` may find.
///
/// The probe makes namespaces, devices and packets: CAP_SYS_ADMIN alone is most of the difference.
const UNITS: [(&str, &str); 3] = [
    ("systemd/natwatch.service", "20"),
    ("systemd/natwatch-probe.service", "25"),
    ("textfile/natwatch-textfile.service", "20"),
];

/// Image of the plain manifests until users set theirs: no such domain can ever be registered (RFC 2606).
const NOWHERE: &str = "registry.invalid/natwatch";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Files below a directory of the repository, by their path in it.
fn below(directory: &str) -> Vec<PathBuf> {
    let mut open = vec![path(directory)];
    let mut files = Vec::new();
    while let Some(entry) = open.pop() {
        if entry.is_dir() {
            open.extend(fs::read_dir(&entry).expect("a directory").map(|entry| entry.expect("an entry").path()));
        } else {
            files.push(entry);
        }
    }
    files.sort();
    files
}

fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&text(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Long flags of `natwatch COMMAND`.
fn flags_of(command: &str) -> BTreeSet<String> {
    let help = natwatch(&[command, "--help"]).expect(0);
    let words = help.split_whitespace().filter(|word| word.starts_with("--"));
    words.map(|word| word.trim_end_matches([',', '.', '`']).to_owned()).collect()
}

/// Panics unless natwatch has the subcommand and each of the flags that follow it.
#[track_caller]
fn assert_understood<'a>(what: &str, words: impl IntoIterator<Item = &'a str>) {
    let mut words = words.into_iter();
    let command = words.next().unwrap_or_else(|| panic!("{what}: no sub-command"));
    let known = flags_of(command);
    for word in words.filter(|word| word.starts_with("--")) {
        let flag = word.split('=').next().expect("a first part");
        assert!(known.contains(flag), "{what}: natwatch {command} has no {flag}");
    }
}

fn strings(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap_or_else(|| panic!("{list} is no list"));
    list.iter().map(|item| item.as_str().expect("a string")).collect()
}

fn pod() -> Value {
    yaml("deploy/kubernetes/base/daemonset.yaml")["spec"]["template"]["spec"].clone()
}

#[test]
fn the_pod_is_on_the_nodes_network_with_net_admin_and_nothing_else() {
    let pod = pod();
    assert_eq!(pod["hostNetwork"], true);
    for absent in ["hostPID", "hostIPC", "hostUsers", "initContainers"] {
        assert_eq!(pod[absent], Value::Null, "{absent}");
    }
    assert_eq!(pod["automountServiceAccountToken"], false);
    let context = &pod["securityContext"];
    assert_eq!((&context["runAsUser"], &context["runAsGroup"]), (&0.into(), &0.into()));
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    let containers = pod["containers"].as_array().expect("containers");
    assert_eq!(containers.len(), 1);
    let security = &containers[0]["securityContext"];
    assert_eq!(strings(&security["capabilities"]["drop"]), ["ALL"]);
    assert_eq!(strings(&security["capabilities"]["add"]), ["NET_ADMIN"]);
    let switches = ["allowPrivilegeEscalation", "privileged", "readOnlyRootFilesystem"].map(|name| &security[name]);
    assert_eq!(switches, [false, false, true]);
    let mounts = containers[0]["volumeMounts"].as_array().expect("mounts");
    assert!(mounts.iter().all(|mount| mount["readOnly"] == true), "{mounts:?}");
    let paths: Vec<&Value> =
        pod["volumes"].as_array().expect("volumes").iter().map(|v| &v["hostPath"]["path"]).collect();
    assert_eq!(paths, ["/etc/os-release"]);
}

#[test]
fn the_unprivileged_pod_is_nobody_without_capabilities() {
    let patch = yaml("deploy/kubernetes/unprivileged/daemonset.yaml");
    let pod = &patch["spec"]["template"]["spec"];
    assert_eq!(
        (&pod["securityContext"]["runAsUser"], &pod["securityContext"]["runAsNonRoot"]),
        (&65534.into(), &true.into())
    );
    let capabilities = pod["containers"][0]["securityContext"]["capabilities"].as_object().expect("capabilities");
    assert_eq!((&capabilities["drop"], &capabilities["add"]), (&vec!["ALL"].into(), &Value::Null));
}

/// natwatch accepts the pod's flags and answers its probes; the chart's are the same.
#[test]
fn the_pod_starts_a_natwatch_that_exists() {
    let pod = pod();
    let container = &pod["containers"][0];
    let args = strings(&container["args"]);
    assert_understood("the pod", args.iter().copied());
    let template = text("deploy/helm/natwatch/templates/daemonset.yaml");
    for arg in &args {
        let flag = arg.split('=').next().expect("a first part");
        assert!(template.contains(&format!("- {flag}")), "the chart does not pass {flag}");
    }
    let (init, main) = template.split_once("      containers:\n").expect("containers");
    for (command, part, flags) in [("probe", init, 3), ("serve", main, 5)] {
        let passed = part.lines().filter_map(|line| line.trim().strip_prefix("- --"));
        let passed: Vec<String> = passed.map(|flag| format!("--{flag}")).collect();
        assert!(passed.len() >= flags && part.contains(&format!("- {command}\n")), "{passed:?}");
        assert_understood("the chart", [command].into_iter().chain(passed.iter().map(String::as_str)));
    }
    assert!(main.contains("range .Values.accept") && flags_of("serve").contains("--accept"));
    let file = "/run/natwatch/probe.json";
    assert!(init.contains(&format!("- --output={file}\n")) && main.contains(&format!("- --probe-result={file}\n")));
    let contract = ["/-/healthy", "/-/ready"];
    let probes = ["livenessProbe", "readinessProbe"].map(|probe| container[probe]["httpGet"]["path"].clone());
    assert_eq!(probes, contract);
    assert!(contract.iter().all(|path| template.contains(&format!("path: {path}\n"))));
    let root = args.iter().find_map(|arg| arg.strip_prefix("--path.rootfs=")).expect("--path.rootfs");
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    let mounts: Vec<&str> = mounts.iter().map(|mount| mount["mountPath"].as_str().expect("a path")).collect();
    assert_eq!(mounts, [format!("{root}/etc/os-release")]);
}

/// An init container that ends with another code than 0 is restarted for ever: a defect is no failure of the probe.
#[test]
fn the_probe_of_an_init_container_succeeds_whatever_it_finds() {
    require_root();
    let directory = Tree::empty();
    let output = format!("--output={}/probe.json", directory.path());
    let words = ["probe", "--format=json", &output, "--defect=nat-udp-lco-checksum"];
    natwatch(&words).expect(2);
    natwatch(&[&words[..], &["--exit-zero"]].concat()).expect(0);
    let result = fs::read_to_string(format!("{}/probe.json", directory.path())).expect("a result");
    let result: Value = serde_json::from_str(&result).expect("JSON");
    assert_eq!(result["defects"][0]["state"], "present", "{result}");
    natwatch(&["probe", "--exit-zero", "--output=/nonexistent/probe.json"]).fails(1, &["/nonexistent/probe.json"]);
}

/// Version, port and image name are the same wherever they are written.
#[test]
fn versions_ports_and_names_agree() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = yaml("deploy/helm/natwatch/Chart.yaml");
    assert_eq!((&chart["version"], &chart["appVersion"]), (&version.into(), &version.into()));
    let values = yaml("deploy/helm/natwatch/values.yaml");
    assert_eq!(values["image"]["tag"], "", "the chart's appVersion is the tag");
    let base = yaml("deploy/kubernetes/base/kustomization.yaml");
    let image = serde_json::json!([{ "name": "natwatch", "newName": NOWHERE, "newTag": version }]);
    assert_eq!((&base["images"], &pod()["containers"][0]["image"]), (&image, &"natwatch".into()));
    let dockerfile = text("Dockerfile");
    assert!(dockerfile.contains(&format!("ARG VERSION={version}\n")));
    assert!(dockerfile.contains("\nEXPOSE 10077\n") && dockerfile.contains("\nUSER 65534:65534\n"));
    assert!(text("deploy/systemd/natwatch.socket").contains("\nListenStream=10077\n"));
    assert!(natwatch(&["serve", "--help"]).expect(0).contains(":10077"), "the default of the program");
    assert_eq!(values["service"]["port"], 10077);
    assert_eq!(pod()["containers"][0]["ports"][0]["containerPort"], 10077);
}

/// There is no public image and no public repository. A name written here could be registered by anyone, and would be
/// run with NET_ADMIN on every node, or be read by operators.
#[test]
fn nothing_that_is_deployed_names_what_nobody_owns() {
    let values = yaml("deploy/helm/natwatch/values.yaml");
    assert_eq!((&values["image"]["registry"], &values["image"]["repository"]), (&"".into(), &"".into()));
    let helpers = text("deploy/helm/natwatch/templates/_helpers.tpl");
    let refusal = helpers.split("{{- if not .Values.image.repository }}\n{{- fail \"").nth(1).expect("a refusal");
    assert!(refusal.starts_with("image.repository is empty") && refusal.contains("set image.registry"), "{refusal}");
    let mut files: Vec<PathBuf> = ["deploy", "dashboards", "docs"].into_iter().flat_map(below).collect();
    files.extend(["README.md", "Dockerfile", "Cargo.toml", "CONTRIBUTING.md", "PLATFORM.md"].map(path));
    files.retain(|file| file.extension().is_none_or(|extension| extension != "png"));
    assert!(files.len() > 60, "{}", files.len());
    for file in files {
        let text = fs::read_to_string(&file).expect("a text");
        for line in text.lines() {
            let at = file.display();
            assert!(!line.contains("github.com/natwatch"), "{at}: {line}");
            // A name without a registry is one of a public registry's.
            let names = line.split(|c: char| c.is_whitespace() || "\"'`=,;".contains(c));
            let image = names.map(|name| name.trim_end_matches(['.', ':'])).find(|name| *name == "natwatch/natwatch");
            assert_eq!(image, None, "{at}: {line}");
        }
    }
    for (file, runs) in [("README.md", "docker run"), ("Dockerfile", "docker run")] {
        let text = text(file);
        let command = text.split(runs).nth(1).expect("a command").split(" serve").next().expect("a first part");
        assert!(command.ends_with(" localhost/natwatch"), "{file}: {command}");
    }
}

/// Alerts that do not fire by default; changing that is tested with helm.
#[test]
fn what_is_only_information_is_no_alert_by_default() {
    let values = yaml("deploy/helm/natwatch/values.yaml");
    let off = serde_json::json!({ "NatwatchExposed": { "info": { "enabled": false } } });
    assert_eq!(values["prometheusRule"]["alerts"], off);
    let rules =
        ["natwatch.rules.yaml", "natwatch-info.rules.yaml"].map(|file| yaml(&format!("deploy/prometheus/{file}")));
    let severities = rules.map(|rules| {
        let groups = rules["groups"].as_array().expect("groups").clone();
        let rules = groups.into_iter().flat_map(|group| group["rules"].as_array().expect("rules").clone());
        let alerts = rules.filter(|rule| rule["alert"].is_string());
        alerts.map(|rule| rule["labels"]["severity"].as_str().expect("a severity").to_owned()).collect::<BTreeSet<_>>()
    });
    assert_eq!(severities, [BTreeSet::from(["critical".to_owned(), "warning".to_owned()]), ["info".to_owned()].into()]);
}

/// Directories that the program embeds, and files that its build script reads.
fn embedded() -> BTreeSet<String> {
    let sources = below("src").into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs"));
    let named = sources.flat_map(|file| {
        let text = fs::read_to_string(file).expect("a source");
        let parts = text.split("include_dir!(\"$CARGO_MANIFEST_DIR/").skip(1);
        parts.map(|part| part.split('"').next().expect("a path").to_owned()).collect::<Vec<_>>()
    });
    let read = ["build.rs", "docs/runbooks", "src/advisory/catalogue", "src/advisory/defects"];
    named.chain(read.map(str::to_owned)).collect()
}

/// The crate, and the context of `docker build`, contain all that is embedded, without recordings of nodes.
#[test]
fn what_is_packed_builds_and_is_no_more() {
    let embedded = embedded();
    assert!(embedded.len() > 2 && embedded.contains("docs/runbooks"), "{embedded:?}");
    let context = text(".dockerignore");
    let let_in: Vec<&str> = context.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert_eq!(context.lines().next(), Some("*"));
    let script = text("build.rs");
    assert!(
        ["docs/runbooks", "src/advisory", "catalogue", "defects"].iter().all(|part| script.contains(part)),
        "it reads what is embedded"
    );
    for directory in &embedded {
        let is_in = let_in.iter().any(|path| Path::new(directory).starts_with(path));
        assert!(is_in, ".dockerignore keeps {directory} out of the image's build");
    }
    let mut list = Command::new(env!("CARGO"));
    let packed = expect_success(list.args(["package", "--list", "--offline", "--allow-dirty"]).current_dir(path("")));
    let packed: BTreeSet<&str> = packed.lines().collect();
    let sources = below("src").into_iter().filter(|file| !file.to_string_lossy().contains("/testdata/"));
    for file in sources.chain(embedded.iter().flat_map(|directory| below(directory))) {
        let file = file.strip_prefix(path("")).expect("a file of the repository").to_str().expect("a name");
        assert!(packed.contains(file), "Cargo.toml does not include {file}");
    }
    let others = packed.iter().filter(|file| !file.starts_with("src/") && !file.starts_with("docs/runbooks/"));
    let others: Vec<&&str> = others.filter(|file| !file.starts_with("LICENSE") && !file.starts_with('.')).collect();
    assert_eq!(others, [&"Cargo.lock", &"Cargo.toml", &"Cargo.toml.orig", &"README.md", &"build.rs"]);
}

/// The schema has exactly the chart's values.
#[test]
fn the_schema_knows_each_value() {
    let values = yaml("deploy/helm/natwatch/values.yaml");
    let schema: Value = serde_json::from_str(&text("deploy/helm/natwatch/values.schema.json")).expect("JSON");
    fn compare(at: &str, value: &Value, schema: &Value) {
        assert!(schema["type"].is_string(), "{at} has no type: {schema}");
        let (Some(value), Some(known)) = (value.as_object(), schema["properties"].as_object()) else { return };
        assert_eq!(schema["additionalProperties"], false, "{at}");
        // `global` exists in every chart and may have any content; `claims` are Kubernetes'.
        let ours = |name: &&String| !["global", "claims"].contains(&name.as_str());
        let there: BTreeSet<&String> = value.keys().filter(ours).collect();
        let known_names = known.keys().filter(ours);
        assert_eq!(there, known_names.collect(), "{at}");
        for (name, value) in value.iter().filter(|(name, _)| ours(name)) {
            compare(&format!("{at}.{name}"), value, &known[name]);
        }
    }
    compare("", &values, &schema);
    let templates: String = below("deploy/helm/natwatch/templates")
        .iter()
        .map(|file| fs::read_to_string(file).expect("a template"))
        .collect();
    for name in values.as_object().expect("a mapping").keys() {
        assert!(templates.contains(&format!(".Values.{name}")), "no template uses {name}");
    }
}

/// The chart's copies equal the repository's files: `make chart-files` copies them.
#[test]
fn the_chart_embeds_the_rules_and_dashboards_as_they_are() {
    for (sources, extension, copies) in [("deploy/prometheus", "yaml", "rules"), ("dashboards", "json", "dashboards")] {
        let directory = format!("deploy/helm/natwatch/files/{copies}");
        let files_in = |directory: &str| -> BTreeMap<String, Vec<u8>> {
            let entries = fs::read_dir(path(directory)).into_iter().flatten();
            let files = entries.map(|entry| entry.expect("an entry").path());
            let files = files.filter(|file| file.extension().is_some_and(|e| e == extension));
            let name = |file: &Path| file.file_name().expect("a name").to_string_lossy().into_owned();
            files.map(|file| (name(&file), fs::read(&file).expect("a file"))).collect()
        };
        let (originals, embedded) = (files_in(sources), files_in(&directory));
        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&originals), names(&embedded), "run `make chart-files`");
        for (name, content) in &originals {
            assert!(embedded[name] == *content, "{directory}/{name} differs: run `make chart-files`");
        }
        for (name, content) in embedded.iter().filter(|_| copies == "rules") {
            let rules: Value = serde_saphyr::from_slice(content).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(rules["groups"].is_array(), "{name} has no groups");
        }
    }
}

/// The settings of a unit, in order.
fn settings(name: &str) -> Vec<(String, String)> {
    let unit = text(name);
    let lines = unit.lines().filter(|line| !line.starts_with(['#', '[']));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn units_start_a_natwatch_that_exists() {
    let mut started = 0;
    for unit in ["deploy/systemd/natwatch.service", "deploy/systemd/natwatch-probe.service"] {
        for (_, line) in settings(unit).iter().filter(|(key, _)| key == "ExecStart") {
            let mut words = line.split_whitespace();
            assert_eq!(words.next(), Some("/usr/bin/natwatch"), "{unit}");
            assert_understood(unit, words);
            started += 1;
        }
    }
    assert_eq!(started, 2);
    // The proposals in the environment file are valid, too.
    let default = text("deploy/systemd/natwatch.default");
    for line in default.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix("NATWATCH_ARGS=")) {
        assert_understood("natwatch.default", ["serve"].into_iter().chain(line.split_whitespace()));
    }
    // One unit writes the file that the other reads, and the success codes are the contract's.
    assert!(default.contains("/run/natwatch/probe.json"));
    let probe = settings("deploy/systemd/natwatch-probe.service");
    let has = |key: &str, value: &str| probe.iter().any(|(k, v)| k == key && v == value);
    assert!(has("ExecStart", "/usr/bin/natwatch probe --format json --output /run/natwatch/probe.json"));
    assert!(has("SuccessExitStatus", "2 3") && has("RuntimeDirectory", "natwatch"));
}

/// README and the environment file describe the same way to move the port, which the socket unit accepts; nothing sets
/// a listen address besides the socket.
#[test]
fn the_port_is_moved_in_the_socket_unit() {
    let default = text("deploy/systemd/natwatch.default");
    let told = default.split("`systemctl edit natwatch.socket`").nth(1).expect("how to move the port");
    let lines = told.lines().filter_map(|line| line.strip_prefix("#   "));
    let drop_in: String = lines.map(|line| format!("{line}\n")).collect();
    let (head, addresses) = drop_in.split_once('\n').expect("a section");
    assert!(head == "[Socket]" && addresses.starts_with("ListenStream=\nListenStream=127.0.0.1:"), "{drop_in}");
    let readme = text("README.md");
    let block = readme.split("`systemctl edit natwatch.socket`").nth(1).expect("how to move the port");
    assert_eq!(block.split("```ini\n").nth(1).expect("a block").split("```").next(), Some(drop_in.as_str()));
    assert!(
        told.contains("`systemctl restart natwatch.socket`") && block.contains("`systemctl restart natwatch.socket`")
    );
    // Restarting the socket restarts the service: it is required.
    let service = settings("deploy/systemd/natwatch.service");
    assert!(service.contains(&("Requires".into(), "natwatch.socket".into())), "{service:?}");
    for (key, value) in service {
        assert!(!value.contains("--web.listen-address"), "{key}={value}");
    }
    for line in default.lines().filter(|line| line.contains("NATWATCH_ARGS=")) {
        assert!(!line.contains("--web.listen-address"), "{line}");
    }

    require("systemd-analyze");
    let root = Tree::empty();
    root.write("etc/systemd/system/natwatch.socket", text("deploy/systemd/natwatch.socket"));
    root.write("etc/systemd/system/natwatch.service", "[Service]\nExecStart=/bin/true\n");
    root.write("etc/systemd/system/natwatch.socket.d/override.conf", drop_in);
    root.write("bin/true", "");
    fs::set_permissions(format!("{}/bin/true", root.path()), fs::Permissions::from_mode(0o755)).expect("permissions");
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=no", &format!("--root={}", root.path()), "natwatch.socket"]);
    assert_eq!(Run::of(verify.env("LC_ALL", "C")).expect(0), "");
}

/// systemd accepts every line, and finds few rights that could still be dropped.
#[test]
fn systemd_finds_the_units_in_order() {
    require("systemd-analyze");
    // A root with the programs that the units start, so that none is reported as missing.
    let root = Tree::empty();
    for (directory, files) in [
        (
            "etc/systemd/system",
            vec!["systemd/natwatch.service", "systemd/natwatch.socket", "systemd/natwatch-probe.service"],
        ),
        ("etc/systemd/system", vec!["textfile/natwatch-textfile.service", "textfile/natwatch-textfile.timer"]),
    ] {
        for file in files {
            let name = file.rsplit('/').next().expect("a name");
            root.write(&format!("{directory}/{name}"), text(&format!("deploy/{file}")));
        }
    }
    for program in ["usr/bin/natwatch", "usr/lib/natwatch/natwatch-textfile"] {
        root.write(program, "#!/bin/sh\n");
        let program = Path::new(root.path()).join(program);
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).expect("permissions");
    }
    // The targets and slices of every system.
    let system = ["/usr/lib/systemd/system", "/lib/systemd/system"].map(Path::new);
    let system = system.into_iter().find(|directory| directory.is_dir()).expect("systemd's own units");
    root.directories("usr/lib/systemd");
    expect_success(Command::new("cp").arg("-a").arg(system).arg(format!("{}/usr/lib/systemd/system", root.path())));
    let units = ["natwatch.service", "natwatch.socket", "natwatch-probe.service", "natwatch-textfile.service"];
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=no", &format!("--root={}", root.path())]).args(units);
    // An unknown key is only a warning to systemd.
    assert_eq!(Run::of(verify.arg("natwatch-textfile.timer").env("LC_ALL", "C")).expect(0), "");

    for (unit, most) in UNITS {
        let file = path(&format!("deploy/{unit}"));
        let mut security = Command::new("systemd-analyze");
        security.args(["security", "--no-pager", "--offline=true", &format!("--threshold={most}")]).arg(&file);
        let run = Run::of(security.env("LC_ALL", "C"));
        assert_eq!(run.code, 0, "{unit} is above {most}: {}", run.stdout);
    }
}

/// node-problem-detector's configuration runs natwatch as documented, and interprets its codes.
#[test]
fn node_problem_detector_runs_what_its_configuration_names() {
    let configuration: Value = serde_json::from_str(&text("deploy/node-problem-detector/natwatch.json")).expect("JSON");
    assert_eq!(configuration["plugin"], "custom");
    let longest = configuration["pluginConfig"]["max_output_length"].as_u64().expect("a length");
    let conditions: Vec<&Value> =
        configuration["conditions"].as_array().expect("a list").iter().map(|c| &c["type"]).collect();
    let rules = configuration["rules"].as_array().expect("a list");
    assert_eq!(rules.len(), 1);
    for rule in rules {
        assert_eq!(rule["type"], "permanent");
        assert!(conditions.contains(&&rule["condition"]), "{rule}");
        assert_eq!(rule["path"], "/usr/bin/natwatch");
        let ns = Netns::new();
        for (more, codes) in [(&HERE[..], 0..=1), (&[][..], 2..=2)] {
            let run = Run::of(ns.command(NATWATCH).args(strings(&rule["args"])).args(more));
            assert!(codes.contains(&run.code), "{run:?}");
            assert_eq!((run.stdout.lines().count(), run.stderr.as_str()), (1, ""), "{run:?}");
            assert!(run.stdout.trim_end().len() as u64 <= longest, "{run:?}");
        }
    }
}

/// What its page adds to the upstream DaemonSet is what the configuration needs.
#[test]
fn node_problem_detector_is_given_what_upstream_lacks() {
    let page = text("deploy/node-problem-detector/README.md");
    let patch = page.split("```yaml\n").nth(1).expect("a patch").split("```").next().expect("its end");
    let patch: Value = serde_saphyr::from_str(patch).expect("YAML");
    let pod = &patch["spec"]["template"]["spec"];
    assert_eq!(pod["hostNetwork"], true);
    let container = &pod["containers"][0];
    let configuration: Value = serde_json::from_str(&text("deploy/node-problem-detector/natwatch.json")).expect("JSON");
    assert_eq!(container["volumeMounts"][0]["mountPath"], configuration["rules"][0]["path"]);
    let volumes = pod["volumes"].as_array().expect("volumes");
    assert_eq!(volumes[0]["name"], container["volumeMounts"][0]["name"]);
    let flag = "--config.custom-plugin-monitor=/config/natwatch.json";
    assert!(strings(&container["command"]).contains(&flag) && page.contains(&format!("| `{flag}`")));
    let items = volumes[1]["configMap"]["items"].as_array().expect("items");
    assert!(items.iter().any(|item| item["key"] == "natwatch.json" && item["path"] == "natwatch.json"), "{items:?}");
    assert!(page.contains("--from-file=natwatch.json"));
}

/// A textfile directory of node_exporter's, and the script that fills it.
struct Textfile {
    ns: Netns,
    directory: Tree,
}

impl Textfile {
    /// Runs the script with a given natwatch.
    fn run(&self, natwatch: &str) -> Run {
        let mut command = self.ns.command(path("deploy/textfile/natwatch-textfile"));
        command.arg(self.directory.path()).env("NATWATCH", natwatch).env("NATWATCH_CHECK_ARGS", HERE.join(" "));
        Run::of(&mut command)
    }

    /// Runs it with a fake natwatch that prints one line and ends with a code.
    fn with(&self, script: &str) -> Run {
        let fake = Tree::empty();
        fake.write("natwatch", format!("#!/bin/sh\necho natwatch_fake 1\n{script}\n"));
        let program = format!("{}/natwatch", fake.path());
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("permissions");
        self.run(&program)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).expect("a directory");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    fn published(&self) -> String {
        assert_eq!(self.names(), ["natwatch.prom"], "nothing else is left behind");
        fs::read_to_string(format!("{}/natwatch.prom", self.directory.path())).expect("the file")
    }
}

#[test]
fn the_textfile_is_replaced_when_natwatch_has_looked_and_kept_when_it_failed() {
    let textfile = Textfile { ns: Netns::new(), directory: Tree::empty() };
    textfile.with("exit 1").fails_with("natwatch failed with code 1");
    assert!(textfile.names().is_empty(), "a failure publishes nothing");

    textfile.run(NATWATCH).expect(0);
    let first = textfile.published();
    let metrics = Exposition::parse(&first);
    assert_eq!(metrics.one_state("natwatch_source_info", &[("source", "nftables")]).as_deref(), Some("ok"));
    // The age of a file that is no longer replaced can be seen; the alert NatwatchReportOld uses it.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let age = now - metrics.get("natwatch_report_timestamp_seconds", &[]).expect("a time");
    assert!((-1.0..60.0).contains(&age), "{age}");
    // node_exporter exports these itself, and rejects a file with the same names.
    assert!(!first.lines().any(|line| line.starts_with("process_")), "{first}");
    let mode =
        fs::metadata(format!("{}/natwatch.prom", textfile.directory.path())).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "node_exporter is another user");

    // No run, a failure after some output, an end by a signal: the old file stays.
    for failing in ["exit 1", "exit 101", "kill -9 $$"] {
        textfile.with(failing).fails_with("stays as it was");
        assert_eq!(textfile.published(), first, "{failing}");
    }
    textfile.run("/nonexistent/natwatch").fails_with("stays as it was");
    assert_eq!(textfile.published(), first);
    // For each state of the node the file is replaced.
    for code in [0, 2, 3] {
        textfile.with(&format!("echo natwatch_code {code}; exit {code}")).expect(0);
        assert_eq!(textfile.published(), format!("natwatch_fake 1\nnatwatch_code {code}\n"));
    }
}

trait FailsWith {
    fn fails_with(self, words: &str);
}

impl FailsWith for Run {
    #[track_caller]
    fn fails_with(self, words: &str) {
        assert_eq!((self.code, self.stdout.as_str()), (1, ""), "{}", self.stderr);
        assert!(self.stderr.contains(words), "{}", self.stderr);
    }
}

/// The files of the Debian package exist, except for those that its script makes.
#[test]
fn the_debian_package_is_made_of_files_that_exist() {
    let manifest: toml::Table = text("Cargo.toml").parse().expect("TOML");
    let deb = manifest["package"]["metadata"]["deb"].as_table().expect("a table");
    let script = text("deploy/debian/build.sh");
    for asset in deb["assets"].as_array().expect("a list") {
        let source = asset[0].as_str().expect("a source");
        let (directory, pattern) = source.rsplit_once('/').unwrap_or((".", source));
        if directory == "target/debian" {
            let made = pattern.replace('*', "");
            assert!(script.contains(&format!("\"$made/{made}\"")), "build.sh does not make {source}");
        } else if let Some(beginning) = pattern.strip_suffix('*') {
            let mut entries = fs::read_dir(path(directory)).expect("a directory");
            assert!(
                entries.any(|e| e.expect("an entry").file_name().to_string_lossy().starts_with(beginning)),
                "{source}"
            );
        } else {
            assert!(path(source).is_file(), "{source}");
        }
    }
    let units = &deb["systemd-units"];
    let unit = format!(
        "{}/{}",
        units["unit-scripts"].as_str().expect("a directory"),
        units["unit-name"].as_str().expect("a name")
    );
    assert!(path(&format!("{unit}.service")).is_file() && path(&format!("{unit}.socket")).is_file(), "{unit}");
}
