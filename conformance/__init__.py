"""Does a backend compute what gsto-spec means? `docs/conformance.md` says how to run this suite."""
