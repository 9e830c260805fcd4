"""Checks the alerts and the dashboard: expressions, metrics, labels, and runbooks."""

import json
import re

import promql_parser
import yaml

from problems import run

# Labels that Prometheus adds.
TARGET = {"job", "namespace", "instance"}
# Metrics that have the label `principal` if the operator lists principals.
BY_PRINCIPAL = re.compile(r"mongate_(command|bytes)")


def check(root, problems):
    page = (root / "docs/metrics.md").read_text()
    metrics = known_metrics(page)
    problems.unless(len(metrics) > 20, "docs/metrics.md", "the table of metrics was not found")
    rules = alerts(root, page, metrics, problems)
    problems.done(f"alerts: {rules} rules")
    panels = dashboard(root, page, metrics, problems)
    problems.done(f"dashboard: {panels} panels")


def known_metrics(page):
    """Labels of each metric, from the table of docs/metrics.md."""
    rows = re.findall(r"^\| `(mongate_\w+)` \| (.*?) \| (.*?) \|", page, re.M)
    # The metrics of the process have no labels of their own.
    metrics = {name: set(TARGET) for name in re.findall(r"^\| `(process_\w+)` \|", page, re.M)}
    for name, labels, unit in rows:
        known = set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", labels))) | TARGET
        if BY_PRINCIPAL.match(name):
            known.add("principal")
        metrics[name] = known
        if "histogram" in unit:
            metrics |= {f"{name}_bucket": known | {"le"}, f"{name}_sum": known, f"{name}_count": known}
            del metrics[name]
    return metrics


def expression(where, text, page, metrics, problems):
    """Parses one expression, and compares its metrics, labels and label values with docs/metrics.md."""
    try:
        promql_parser.parse(text)
    except ValueError as error:
        problems.add(where, f"{error} in {text}")
        return
    names = set(re.findall(r"\b(?:mongate|process)_\w+", text))
    problems.unless(names, where, f"no metric of mongate in {text}")
    for name in names:
        problems.unless(name in metrics, where, f"{name} is not in docs/metrics.md, or is a histogram without suffix")
    for name, selectors in re.findall(r"\b(mongate_\w+)\{(.*?)\}", text):
        for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"(.*?)"', selectors):
            problems.unless(label in metrics.get(name, {label}), where, f"{name} has no label {label}")
            is_of_operator = label in TARGET or value in ("x", "")
            for word in [] if is_of_operator else value.split("|"):
                problems.unless(f"`{word}`" in page, where, f"{label}: {word} is not in docs/metrics.md")
    known = set().union(*(metrics.get(name, set()) for name in names))
    for labels in re.findall(r"\b(?:by|on)\s*\((.*?)\)", text):
        for label in labels.split(","):
            problems.unless(label.strip() in known, where, f"no metric of {text} has the label {label.strip()}")


def alerts(root, page, metrics, problems):
    directory = root / "deploy/prometheus"
    compose = root / "compose/monitoring/prometheus.yml"
    commands = [("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")]
    for command in (*commands, ("check", "config", "--syntax-only", str(compose))):
        code, out, err = run("promtool", *command, cwd=directory)
        problems.unless(code == 0, f"promtool {' '.join(command)}", out + err)
    groups = yaml.safe_load((directory / "alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    tests = yaml.safe_load((directory / "alerts.test.yml").read_text())["tests"]
    asked = [case for test in tests for case in test["alert_rule_test"]]
    tested = {case["alertname"] for case in asked if case["exp_alerts"]}
    runbooks = (root / "docs/alerts.md").read_text()
    sections = set(re.findall(r"^## (Mongate\w+)$", runbooks, re.M))
    names = {rule["alert"] for rule in rules}
    problems.unless(sections == names, "docs/alerts.md", f"sections and alerts differ: {sections ^ names}")
    for rule in rules:
        name = rule["alert"]
        expression(name, rule["expr"], page, metrics, problems)
        problems.unless(name in tested, name, "no test in which it fires")
        problems.unless(rule["labels"]["severity"] in ("critical", "warning", "info"), name, "has no known severity")
        link = rule["annotations"].get("runbook_url")
        problems.unless(link == f"docs/alerts.md#{name.lower()}", name, f"the runbook {link} does not exist")
    return len(rules)


def dashboard(root, page, metrics, problems):
    text = (root / "deploy/grafana/mongate.json").read_text()
    board = json.loads(text)
    where = "deploy/grafana/mongate.json"
    problems.unless(board["uid"] == "mongate", where, "the uid is part of links")
    variables = {variable["name"] for variable in board["templating"]["list"]}
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            is_label = label in metrics.get(name, {})
            problems.unless(is_label, where, f"variable {variable['name']}: {name} has no {label}")
    panels = board["panels"]
    problems.unless(len({panel["id"] for panel in panels}) == len(panels), where, "two panels have the same id")
    covered = set()
    for panel in panels:
        place = panel["gridPos"]
        columns, rows = (range(place[at], place[at] + place[length]) for at, length in (("x", "w"), ("y", "h")))
        cells = {(x, y) for x in columns for y in rows}
        is_inside = place["x"] + place["w"] <= 24
        problems.unless(is_inside and not cells & covered, f"{where}, {panel['title']}", "overlaps or is too wide")
        covered |= cells
        if panel["type"] == "row":
            continue
        problems.unless(panel.get("description"), f"{where}, {panel['title']}", "has no description")
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            problems.unless(used <= variables, f"{where}, {panel['title']}", f"unknown variables {used - variables}")
            query = target["expr"].replace("$__rate_interval", "5m")
            query = re.sub(r"\$\w+", "x", query)
            expression(f"{where}, {panel['title']}", query, page, metrics, problems)
    shown = set(re.findall(r"\bmongate_\w+", text))
    own = {name for name in metrics if name.startswith("mongate_")}
    unseen = {name for name in own if name not in shown and not name.endswith(("_sum", "_count"))}
    problems.unless(not unseen, where, f"shows nothing of {sorted(unseen)}")
    return sum(panel["type"] != "row" for panel in panels)
