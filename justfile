# What there is to run; `just` alone lists it.
default:
    @just --list

# One node on localhost:9092.
run:
    cargo run --release

# Everything that CI runs.
test:
    bash tests/all

# Real clients only, against a release build.
clients *ARGS:
    cargo build --release -p ottla
    python3 tests/clients/run.py {{ARGS}}

# Real faults under real clients against three nodes (a minute; --seconds N for more).
chaos *ARGS:
    cargo build --release -p ottla
    python3 tests/chaos/chaos.py {{ARGS}}

# The examples, killed half-way.
examples *ARGS:
    cargo build --release -p ottla
    python3 examples/tests/run.py {{ARGS}}

# Tests that live on chance, for longer than CI lets them.
fuzz *ARGS:
    bash tests/fuzz {{ARGS}}

# Whole clusters under seeds: --seeds N [--from S] [--seconds T], or --seed S --trace for one of them with everything that happened.
sim *ARGS:
    cargo run --quiet --profile sim -p ottla-tests --bin sim -- {{ARGS}}

# The same with the real Raft under them, which is slower: --seeds N [--from S] [--seconds T], or --seed S --trace.
sim-raft *ARGS:
    cargo run --quiet --profile sim -p ottla-tests --bin sim -- --raft {{ARGS}}

# Each planted bug must be caught within its number of seeds (--some K: K of them, others every day; --bug NAME: that one; --seeds N: within N).
sim-bugs *ARGS:
    cargo run --quiet --profile sim -p ottla-tests --features sabotage --bin sim -- --bugs {{ARGS}}

# Benchmarks of the parts. `just bench --save-baseline before`, a change, `just bench --baseline before` tells what became of each.
bench *ARGS:
    cargo bench -p ottla-benches -- {{ARGS}}

# What they took, as a table: of this run, or of --baseline NAME, beside it with --beside OTHER.
bench-table *ARGS:
    python3 benches/parts.py {{ARGS}}

# One of them: storage, messages, batches, partitions or machines.
bench-of NAME *ARGS:
    cargo bench -p ottla-benches --bench {{NAME}} -- {{ARGS}}

# Ottla beside Apache Kafka in one run (a quarter of an hour; --quick: a few minutes); --tables three: three nodes each; --tables flat: what must not grow; --tables all.
bench-side-by-side *ARGS:
    python3 benches/side_by_side/side_by_side.py {{ARGS}}

# Licences and advisories.
deny:
    cargo deny check
