"""The table: each figure of both brokers, their ratio, and whether its goal was reached."""

from dataclasses import dataclass
from statistics import median

from measures import Plan, Results
from three_nodes import ThreeNodesPlan

MODES = {"memory": "memory", "disk": "disk"}


@dataclass(frozen=True)
class Figure:
    """A line of the table. `share` is the goal as a share of Kafka's figure; `limit` is one in the figure's own unit."""

    key: str
    text: str
    unit: str
    share: float | None = None
    limit: float | None = None
    # Ottla's worst sample counts, not its median.
    worst: bool = False

    def goal(self) -> str:
        if self.share is not None:
            return f"1/{1 / self.share:.0f}" if self.share < 0.1 else f"{self.share:g}"
        return f"{self.limit:g} {self.unit}" if self.limit is not None else ""

    def reached(self, kafka: float, ottla: float) -> str:
        if self.share is not None:
            return "yes" if ottla <= self.share * kafka else "no"
        return ("yes" if ottla <= self.limit else "no") if self.limit is not None else ""


def figures(plan: Plan) -> list[Figure]:
    recoveries = [
        figure
        for gib in plan.recovery_gib
        for figure in (
            Figure(f"recovery_{gib:g}_gib_ms", f"kill -9 with {gib:g} GiB: to the first record acknowledged", "ms", limit=100),
            Figure(f"recovery_{gib:g}_gib_read_ms", f"kill -9 with {gib:g} GiB: to the first record fetched", "ms", limit=100),
        )
    ]
    return [
        Figure("start_ms", "start to the first record acknowledged", "ms", share=1 / 50),
        Figure("idle_mib", "memory of an idle node (RssAnon)", "MiB", share=1 / 20),
        Figure("cpu_s", "broker CPU per million 1 KiB records, 16 KiB batches", "s", share=0.2),
        Figure("mib_per_s", "throughput meanwhile (more is better)", "MiB/s"),
        Figure("generator_cpu_s", "CPU of the generator meanwhile, per million", "s"),
        Figure("p50_ms", "acks=all at 1,000 records/s: p50", "ms"),
        Figure("p99_ms", "acks=all at 1,000 records/s: p99", "ms", share=0.4),
        Figure("topics_ms", f"{plan.topics:,} topics made in one request", "ms", share=1 / 20),
        *recoveries,
    ]


def figures_of_three(plan: ThreeNodesPlan) -> list[Figure]:
    worst = f", worst of {plan.gap_rounds}"
    latencies = [
        Figure(f"{percentile}_{rate}_ms", f"acks=all at {rate:,} records/s: {percentile}", "ms")
        for rate in (1_000, 20_000)
        for percentile in ("p50", "p99")
    ]
    return [
        Figure("start_ms", "three nodes up to the first record acknowledged", "ms", share=1 / 20),
        Figure("idle_mib", "memory of three idle nodes (RssAnon)", "MiB", share=1 / 20),
        Figure("cpu_s", "CPU of all three per million 1 KiB records, 16 KiB batches", "s", share=0.08),
        Figure("mib_per_s", "throughput meanwhile (more is better)", "MiB/s"),
        Figure("generator_cpu_s", "CPU of the generator meanwhile, per million", "s"),
        *latencies,
        Figure("partitions_ms", f"{plan.partitions:,} partitions made and led", "ms", share=1 / 20),
        Figure("idle_cpu_percent", f"CPU of three idle nodes with {plan.partitions:,} partitions", "%", limit=1),
        Figure("gap_none_ms", "no acknowledgement for: nothing failed" + worst, "ms", worst=True),
        Figure("gap_kill_ms", "no acknowledgement for: leader killed" + worst, "ms", limit=500, worst=True),
        Figure("gap_controller_ms", "no acknowledgement for: controller killed" + worst, "ms", limit=400, worst=True),
        Figure("create_again_ms", "controller killed: until a topic is made" + worst, "ms", limit=400, worst=True),
        Figure("gap_both_ms", "no acknowledgement for: killed, it was both" + worst, "ms", limit=500, worst=True),
        Figure("gap_hang_ms", "no acknowledgement for: leader hung (SIGSTOP)" + worst, "ms", limit=3_000, worst=True),
        Figure("gap_stop_ms", "no acknowledgement for: leader stopped (SIGTERM)" + worst, "ms", limit=50, worst=True),
    ]


def rows(figures: list[Figure], results: Results) -> list[list[str]]:
    table = [["figure", "acks from", "Kafka", "Ottla", "ratio", "goal", "reached"]]
    for figure in figures:
        for mode in MODES:
            sides = results.samples.get(figure.key, {}).get(mode)
            if not sides:
                continue
            of_ottla = max if figure.worst else median
            kafka = median(sides["Kafka"]) if sides["Kafka"] else None
            ottla = of_ottla(sides["Ottla"]) if sides["Ottla"] else None
            cells = [f"{short(value)} {figure.unit}" if value is not None else "" for value in (kafka, ottla)]
            compared = [ratio(ottla, kafka), figure.goal(), figure.reached(kafka, ottla)] if kafka and ottla else ["", figure.goal(), ""]
            table.append([figure.text, MODES[mode], *cells, *compared])
    return table + controls(results)


def controls(results: Results) -> list[list[str]]:
    """What the machine took without a broker, in the same minutes as the latencies."""
    lines = []
    for key, text in (("ping_pong", "bare socket, 1,000 round trips/s"), ("fdatasync_4k", "4 KiB appended and synced")):
        for mode in MODES:
            for percentile in ("p50", "p99"):
                values = [control[key][f"{percentile}_us"] / 1e3 for control in results.controls.get(mode, [])]
                if values:
                    lines.append([f"control: {text}: {percentile}", MODES[mode], f"{short(median(values))} ms", "", "", "", ""])
    return lines


def short(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def ratio(ottla: float, kafka: float) -> str:
    if kafka == 0:
        return ""
    share = ottla / kafka
    return f"{share:.3f}" if share < 1 else f"{share:.2f}"


def text_table(table: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table)


def markdown_table(table: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in table]
    lines.insert(1, "|---|---|--:|--:|--:|--:|---|")
    return "\n".join(lines)
