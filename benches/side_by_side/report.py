"""The table: each figure of both brokers, their ratio, and whether its goal was reached."""

from dataclasses import dataclass, field
from statistics import median

from measures import OPEN_LOOP_RATE, Plan, Results
from three_nodes import ThreeNodesPlan

MODES = ("memory", "disk")
# A rate is sustained where this share of it is reached.
SUSTAINED = 0.99


@dataclass(frozen=True)
class Goal:
    """`share`: of Kafka's figure, at most; `times`: of Kafka's, at least. `limit` and `least` are in the figure's own unit."""

    share: float | None = None
    times: float | None = None
    limit: float | None = None
    least: float | None = None

    def text(self, unit: str) -> str:
        if self.share is not None:
            return f"1/{1 / self.share:.0f}" if self.share < 0.07 or self.share == 1 / 8 else f"{self.share:g}"
        if self.times is not None:
            return f"{self.times:g}x"
        return f"{self.limit:g} {unit}" if self.limit is not None else f"at least {self.least:,.0f} {unit}"

    def reached(self, ottla: float, kafka: float | None) -> str:
        if self.limit is not None or self.least is not None:
            good = ottla <= self.limit if self.limit is not None else ottla >= self.least
        elif kafka is None:
            return ""
        else:
            good = ottla <= self.share * kafka if self.share is not None else ottla >= self.times * kafka
        return "yes" if good else "no"


@dataclass(frozen=True)
class Figure:
    """A line of the table for each mode in which it was measured."""

    key: str
    text: str
    unit: str
    goals: dict[str, Goal] = field(default_factory=dict)
    # Ottla's worst sample counts, not its median.
    worst: bool = False


def memory(**goal: float) -> dict[str, Goal]:
    return {"memory": Goal(**goal)}


def disk(**goal: float) -> dict[str, Goal]:
    return {"disk": Goal(**goal)}


def both(**goal: float) -> dict[str, Goal]:
    return memory(**goal) | disk(**goal)


def figures(plan: Plan) -> list[Figure]:
    recoveries = [
        figure
        for gib in plan.recovery_gib
        for figure in (
            Figure(f"recovery_{gib:g}_gib_ms", f"kill -9 with {gib:g} GiB: to the first record acknowledged", "ms", both(limit=100)),
            Figure(f"recovery_{gib:g}_gib_read_ms", f"kill -9 with {gib:g} GiB: to the first record fetched", "ms", both(limit=100)),
        )
    ]
    many = f"{plan.topics:,}"
    offered = f"{OPEN_LOOP_RATE:,} records/s of 1 KiB in 4 KiB batches"
    return [
        Figure("start_ms", "start to the first record acknowledged", "ms", both(share=1 / 50)),
        Figure("size_mb", "size: a binary; jar files without a JVM", "MB", memory(limit=15)),
        Figure("idle_mib", "memory of an idle node (RssAnon)", "MiB", both(share=1 / 20)),
        Figure("loaded_mib", f"memory after load on {many} partitions (RssAnon)", "MiB", memory(share=1 / 8)),
        Figure("cpu_s", "broker CPU per million 1 KiB records, 16 KiB batches", "s", memory(share=0.14) | disk(share=0.15)),
        Figure("mib_per_s", "throughput meanwhile (more is better)", "MiB/s", disk(times=4)),
        Figure("generator_cpu_s", "CPU of the generator meanwhile, per million", "s"),
        Figure("cpu_100_b_s", "broker CPU per million 100 B records, 16 KiB batches", "s", memory(share=0.15)),
        Figure("mib_per_s_100_b", "throughput meanwhile (more is better)", "MiB/s"),
        Figure("generator_cpu_100_b_s", "CPU of the generator meanwhile, per million", "s"),
        Figure("cpu_64_kib_s", "broker CPU per million 1 KiB records, 64 KiB batches", "s", memory(share=0.15)),
        Figure("mib_per_s_64_kib", "throughput meanwhile (more is better)", "MiB/s"),
        Figure("generator_cpu_64_kib_s", "CPU of the generator meanwhile, per million", "s"),
        Figure("fetch_cpu_s", "fetch from the page cache: broker CPU per GB", "s", memory(share=0.45)),
        Figure("fetch_mib_per_s", "throughput meanwhile (more is better)", "MiB/s"),
        Figure("fetch_generator_cpu_s", "CPU of the generator meanwhile, per GB", "s"),
        Figure("p50_ms", "acks=all at 1,000 records/s: p50", "ms", memory(share=0.25)),
        Figure("p99_ms", "acks=all at 1,000 records/s: p99", "ms", memory(share=0.3) | disk(share=0.25)),
        Figure("p50_end_to_end_ms", "end to end at 1,000 records/s: p50", "ms"),
        Figure("p99_end_to_end_ms", "end to end at 1,000 records/s: p99", "ms", memory(share=0.3)),
        Figure("reached_open_loop", f"{offered}: reached", "/s", memory(least=SUSTAINED * OPEN_LOOP_RATE)),
        Figure("p50_open_loop_ms", f"{offered}: p50", "ms"),
        Figure("p99_open_loop_ms", f"{offered}: p99", "ms", memory(share=0.25)),
        Figure("topics_ms", f"{many} topics in one request: answered", "ms"),
        Figure("topics_led_ms", f"{many} topics in one request: all led", "ms", both(share=1 / 20)),
        Figure("partitions_led_ms", f"a topic of {many} partitions: all led", "ms", both(share=1 / 20)),
        Figure("idle_cpu_percent", f"CPU of an idle node with {many} partitions", "% of a core", memory(limit=0.3)),
        *recoveries,
    ]


def figures_of_three(plan: ThreeNodesPlan) -> list[Figure]:
    worst = f", worst of {plan.gap_rounds}"
    steady = "acks=all at 20,000 records/s, 4 KiB batches"
    return [
        Figure("start_ms", "three nodes up to the first record acknowledged", "ms", both(share=1 / 20)),
        Figure("idle_mib", "memory of three idle nodes (RssAnon)", "MiB", both(share=1 / 20)),
        Figure("cpu_s", "CPU of all three per million 1 KiB records, 16 KiB batches", "s", memory(share=0.08)),
        Figure("mib_per_s", "throughput meanwhile (more is better)", "MiB/s"),
        Figure("generator_cpu_s", "CPU of the generator meanwhile, per million", "s"),
        Figure("p50_1000_ms", "acks=all at 1,000 records/s: p50", "ms"),
        Figure("p99_1000_ms", "acks=all at 1,000 records/s: p99", "ms"),
        Figure("reached_20000", f"{steady}: reached", "/s", memory(least=SUSTAINED * 20_000)),
        Figure("p50_20000_ms", f"{steady}: p50", "ms"),
        Figure("p99_20000_ms", f"{steady}: p99", "ms", memory(limit=10)),
        Figure("partitions_ms", f"{plan.partitions:,} partitions made and led", "ms", both(share=1 / 20)),
        Figure("idle_cpu_percent", f"CPU of three idle nodes with {plan.partitions:,} partitions", "% of a core", both(limit=1)),
        Figure("gap_none_ms", "no acknowledgement for: nothing failed" + worst, "ms", worst=True),
        Figure("gap_kill_ms", "no acknowledgement for: leader killed" + worst, "ms", both(limit=500), worst=True),
        Figure("gap_controller_ms", "no acknowledgement for: controller killed" + worst, "ms", both(limit=400), worst=True),
        Figure("create_again_ms", "controller killed: until a topic is made" + worst, "ms", both(limit=400), worst=True),
        Figure("gap_both_ms", "no acknowledgement for: killed, it was both" + worst, "ms", both(limit=500), worst=True),
        Figure("gap_hang_ms", "no acknowledgement for: leader hung (SIGSTOP)" + worst, "ms", both(limit=3_000), worst=True),
        Figure("gap_stop_ms", "no acknowledgement for: leader stopped (SIGTERM)" + worst, "ms", both(limit=50), worst=True),
    ]


def rows(figures: list[Figure], results: Results) -> list[list[str]]:
    table = [["figure", "acks from", "Kafka", "Ottla", "ratio", "goal", "reached"]]
    for figure in figures:
        for mode in MODES:
            sides = results.samples.get(figure.key, {}).get(mode)
            if not sides:
                continue
            of_ottla = max if figure.worst else median
            kafka = median(sides["Kafka"]) if sides.get("Kafka") else None
            ottla = of_ottla(sides["Ottla"]) if sides.get("Ottla") else None
            cells = [f"{short(value)} {figure.unit}" if value is not None else "" for value in (kafka, ottla)]
            compared = ratio(ottla, kafka) if kafka and ottla else ""
            goal = figure.goals.get(mode)
            judged = [goal.text(figure.unit), goal.reached(ottla, kafka) if ottla is not None else ""] if goal else ["", ""]
            table.append([figure.text, mode, *cells, compared, *judged])
    return table + controls(results)


def controls(results: Results) -> list[list[str]]:
    """What the machine took without a broker, in the same minutes as the latencies."""
    lines = []
    for key, text in (("ping_pong", "bare socket, 1,000 round trips/s"), ("fdatasync_4k", "4 KiB appended and synced")):
        for mode in MODES:
            for percentile in ("p50", "p99"):
                values = [control[key][f"{percentile}_us"] / 1e3 for control in results.controls.get(mode, [])]
                if values:
                    lines.append([f"control: {text}: {percentile}", mode, f"{short(median(values))} ms", "", "", "", ""])
    return lines


def short(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def ratio(ottla: float, kafka: float) -> str:
    share = ottla / kafka
    return f"{share:.3f}" if share < 1 else f"{share:.2f}"


def text_table(table: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table)


def markdown_table(table: list[list[str]]) -> str:
    """Figures, which begin with a digit, stand to the right."""
    right = [any(row[column][:1].isdigit() for row in table[1:]) for column in range(len(table[0]))]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    lines.insert(1, "|" + "|".join("--:" if column > 0 and right[column] else "---" for column in range(len(right))) + "|")
    return "\n".join(lines)


def caption(about: dict[str, dict], minutes: float, quick: bool) -> str:
    """What stands above a table: how it came about."""
    the_machine, the_versions = about["machine"], about["versions"]
    length = "`--quick`, not to be quoted" if quick else "full length"
    return (
        f"One run ({length}; {minutes:g} minutes) of commit {the_versions['commit']}, load average {the_machine['load_average_before']:g} when it "
        f"began: {the_machine['cores']} cores of an {the_machine['cpu']}, {the_machine['memory_gib']:g} GiB of memory, Linux {the_machine['kernel']}, "
        f"{the_machine['file_system']}, {the_versions['java']}."
    )


def put_into(page: str, name: str, text: str) -> str:
    """The page with `text` between the marks that stand around a table of that name."""
    begin, end = f"<!-- table: {name} -->", f"<!-- end of table: {name} -->"
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{text}\n{end}{after}"
