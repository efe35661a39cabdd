"""What workflow code may not call, why, and what to use instead: the tables of the determinism guard.

Pure data, read by two users: `perdure.replay.guard` (at run time) and `perdure.replay.lint` (on the code, at
registration). Names are dotted strings and are resolved when the guard is installed, so that this package imports
neither clock nor chance; a name that the running Python does not have is passed over.

Three means catch a call at run time, from the outside in:

- `WRAPPED`: functions and methods without an audit event get a wrapper. Chosen as low as possible (``random._urandom``,
  the environment's mapping class), so that names imported early end at a wrapped function all the same.
- `AUDIT_RULES` and `AUDIT_NAMESPACES`: CPython's audit events, which see a call whatever name it was made by.
- `STATIC_ONLY` has what neither can see (``datetime.now`` is a C method of an immutable type), and names that are
  worth reporting before the first run; only the static check reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ADVICE_BY_MODULE",
    "AUDIT_NAMESPACES",
    "AUDIT_RULES",
    "ENVIRONMENT",
    "MACHINERY",
    "NO_EXECUTOR",
    "NO_RANDOM",
    "NO_WALL_CLOCK",
    "OBSERVERS",
    "QUIET_EVENTS",
    "QUIET_MODULES",
    "STATIC_ONLY",
    "STATIC_PREFIXES",
    "WRAPPED",
    "Rule",
    "Target",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A forbidden call as its author knows it, and what to use instead."""

    call: str
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A function that workflow code may not call.

    Attributes:
        path: "module:attribute.attribute".
        rule: what its caller is told.
        bare: it takes no argument at all, so a wrapper needs none either and costs less.
        harmless_with: index of the positional argument that makes the call deterministic (``time.gmtime(seconds)``);
            None = always forbidden.
        eager: to wrap it, import its module if nobody has yet.
    """

    path: str
    rule: Rule
    bare: bool = False
    harmless_with: int | None = None
    eager: bool = True


_CLOCK = "use workflow.time() or workflow.now() instead"
_NOW = "use workflow.now() instead"
_DURATION = "use differences of workflow.time(), or measure inside an activity"
_SLEEP = "use 'await workflow.sleep(...)' or 'await asyncio.sleep(...)', which are durable timers"
_RANDOM = "use workflow.random(), e.g. workflow.random().random()"
_SEEDED = "use workflow.random(), or give random.Random a seed"
_UUID = "use workflow.uuid4() instead"
_ENVIRONMENT = "pass the value as an argument of the workflow, or read it in an activity or in workflow.step(...)"
_FILES = "do it in an activity or in workflow.step(...)"
_NETWORK = "talk to the network in an activity or in workflow.step(...)"
_PROCESSES = "start processes in an activity or in workflow.step(...)"
_THREADS = "run it in an activity or in workflow.step(...); within the workflow use asyncio's tasks"
_INPUT = "let a signal or an update bring the answer, and wait with workflow.wait_condition(...)"

NO_WALL_CLOCK = Rule(call="datetime.datetime.now", advice=_NOW)
NO_RANDOM = Rule(call="random", advice=_RANDOM)
NO_EXECUTOR = Rule(call="loop.run_in_executor", advice=_THREADS)
ENVIRONMENT = Rule(call="os.environ", advice=_ENVIRONMENT)


def _wrapped(
    path: str,
    advice: str,
    *,
    call: str = "",
    bare: bool = False,
    harmless_with: int | None = None,
    eager: bool = True,
) -> Target:
    rule = Rule(call=call or path.replace(":", "."), advice=advice)
    return Target(path=path, rule=rule, bare=bare, harmless_with=harmless_with, eager=eager)


WRAPPED: tuple[Target, ...] = (
    # Clock.
    _wrapped("time:time", _CLOCK, bare=True),
    _wrapped("time:time_ns", "use workflow.time() instead", bare=True),
    _wrapped("time:monotonic", "use workflow.time() instead", bare=True),
    _wrapped("time:monotonic_ns", "use workflow.time() instead", bare=True),
    _wrapped("time:perf_counter", _DURATION, bare=True),
    _wrapped("time:perf_counter_ns", _DURATION, bare=True),
    _wrapped("time:process_time", _DURATION, bare=True),
    _wrapped("time:process_time_ns", _DURATION, bare=True),
    _wrapped("time:thread_time", _DURATION, bare=True),
    _wrapped("time:thread_time_ns", _DURATION, bare=True),
    _wrapped("time:clock_gettime", _CLOCK),
    _wrapped("time:clock_gettime_ns", _CLOCK),
    _wrapped("time:gmtime", _NOW, harmless_with=0),
    _wrapped("time:localtime", _NOW, harmless_with=0),
    _wrapped("time:ctime", _NOW, harmless_with=0),
    _wrapped("time:asctime", _NOW, harmless_with=0),
    _wrapped("time:strftime", _NOW, harmless_with=1),
    _wrapped("time:sleep", _SLEEP),
    # Chance. All of random's functions are methods of one instance and end at these two of its methods; shadowing
    # them on the instance catches `from random import choice` too.
    _wrapped("random:_inst.random", _RANDOM, call="random.random"),
    _wrapped("random:_inst.getrandbits", _RANDOM, call="random.getrandbits"),
    _wrapped("random:random", _RANDOM),
    _wrapped("random:getrandbits", _RANDOM),
    _wrapped("random:seed", _RANDOM),
    # An unseeded generator; the first argument is the generator itself.
    _wrapped("random:Random.seed", _SEEDED, call="random.Random", harmless_with=1),
    # Where SystemRandom and with it `secrets` get their bytes from.
    _wrapped("random:_urandom", _RANDOM, call="random.SystemRandom"),
    _wrapped("os:urandom", _RANDOM),
    _wrapped("os:getrandom", _RANDOM),
    _wrapped("ssl:RAND_bytes", _RANDOM, eager=False),
    # uuid4 ends at os.urandom, uuid1 here or at the clock.
    _wrapped("uuid:_generate_time_safe", _UUID, call="uuid.uuid1"),
    _wrapped("uuid:getnode", _ENVIRONMENT),
    # Environment and host.
    _wrapped("os:_Environ.__getitem__", _ENVIRONMENT, call="os.environ"),
    _wrapped("os:_Environ.__setitem__", _ENVIRONMENT, call="os.environ"),
    _wrapped("os:_Environ.__delitem__", _ENVIRONMENT, call="os.environ"),
    _wrapped("os:_Environ.__iter__", _ENVIRONMENT, call="os.environ"),
    _wrapped("os:_Environ.__len__", _ENVIRONMENT, call="os.environ"),
    _wrapped("os:getpid", _ENVIRONMENT),
    _wrapped("os:getppid", _ENVIRONMENT),
    _wrapped("os:getlogin", _ENVIRONMENT),
    _wrapped("os:uname", _ENVIRONMENT),
    _wrapped("os:cpu_count", _ENVIRONMENT),
    _wrapped("os:process_cpu_count", _ENVIRONMENT),
    _wrapped("os:getloadavg", _ENVIRONMENT),
    _wrapped("os:getcwd", _ENVIRONMENT),
    _wrapped("os:getcwdb", _ENVIRONMENT),
    # Files: most have audit events; these look at the file system without one.
    _wrapped("os:stat", _FILES),
    _wrapped("os:lstat", _FILES),
    _wrapped("os:access", _FILES),
    _wrapped("os:readlink", _FILES),
    _wrapped("os:statvfs", _FILES),
    # Threads and the loop's ways out.
    _wrapped("threading:Thread.start", _THREADS),
    _wrapped("_thread:start_new_thread", _THREADS),
    _wrapped("concurrent.futures.thread:ThreadPoolExecutor.submit", _THREADS, call="ThreadPoolExecutor.submit"),
    _wrapped(
        "concurrent.futures.process:ProcessPoolExecutor.submit",
        _PROCESSES,
        call="ProcessPoolExecutor.submit",
        eager=False,
    ),
    _wrapped("asyncio:to_thread", _THREADS),
    _wrapped("asyncio.base_events:BaseEventLoop.run_in_executor", _THREADS, call="loop.run_in_executor"),
    _wrapped("asyncio:create_subprocess_exec", _PROCESSES),
    _wrapped("asyncio:create_subprocess_shell", _PROCESSES),
    _wrapped("asyncio:open_connection", _NETWORK),
    _wrapped("asyncio:start_server", _NETWORK),
)

AUDIT_RULES: dict[str, Rule] = {
    event: Rule(call=call or event, advice=advice)
    for event, call, advice in (
        ("open", "", _FILES),
        ("mmap.__new__", "mmap.mmap", _FILES),
        ("builtins.input", "input", _INPUT),
        ("time.sleep", "", _SLEEP),
        ("_thread.start_new_thread", "threading.Thread.start", _THREADS),
        ("_thread.start_joinable_thread", "threading.Thread.start", _THREADS),
        ("os.system", "", _PROCESSES),
        ("os.fork", "", _PROCESSES),
        ("os.forkpty", "", _PROCESSES),
        ("os.exec", "", _PROCESSES),
        ("os.posix_spawn", "", _PROCESSES),
        ("os.spawn", "", _PROCESSES),
        ("os.startfile", "", _PROCESSES),
        ("os.kill", "", _PROCESSES),
        ("os.killpg", "", _PROCESSES),
        ("os.putenv", "", _ENVIRONMENT),
        ("os.unsetenv", "", _ENVIRONMENT),
        ("os.chdir", "", _ENVIRONMENT),
        ("socket.__new__", "socket.socket", _NETWORK),
        ("socket.gethostname", "", _ENVIRONMENT),
        ("pty.spawn", "", _PROCESSES),
        ("webbrowser.open", "", _PROCESSES),
    )
}

QUIET_EVENTS = frozenset({"builtins.id", "object.__getattr__", "sys._getframe"})
"""Harmless audit events that are raised so often that looking them up in the tables would cost."""

# Namespaces of audit events all of whose other members are forbidden too.
AUDIT_NAMESPACES: dict[str, str] = {
    "os": _FILES,
    "fcntl": _FILES,
    "glob": _FILES,
    "pathlib": _FILES,
    "shutil": _FILES,
    "sqlite3": _FILES,
    "tempfile": _FILES,
    "subprocess": _PROCESSES,
    "socket": _NETWORK,
    "ftplib": _NETWORK,
    "http": _NETWORK,
    "imaplib": _NETWORK,
    "poplib": _NETWORK,
    "smtplib": _NETWORK,
    "urllib": _NETWORK,
    "resource": _ENVIRONMENT,
    "winreg": _ENVIRONMENT,
}

# Modules of the standard library whose functions people know by name: the error names the function they called
# rather than what it came down to. None = the advice stays that of the call it came down to.
ADVICE_BY_MODULE: dict[str, str | None] = {
    "random": None,
    "secrets": _RANDOM,
    "uuid": _UUID,
    "os": None,
    "pathlib": _FILES,
    "glob": _FILES,
    "shutil": _FILES,
    "sqlite3": _FILES,
    "tempfile": _FILES,
    "subprocess": _PROCESSES,
    "multiprocessing.context": _PROCESSES,
    "multiprocessing.process": _PROCESSES,
    "socket": _NETWORK,
    "urllib.request": _NETWORK,
    "http.client": _NETWORK,
    "smtplib": _NETWORK,
    "threading": None,
}

# Standard library frames that say nothing to a reader.
QUIET_MODULES = frozenset({"_collections_abc", "collections.abc", "codecs", "contextlib", "functools", "_weakrefset"})

# Library code that may do what it likes, and call what it likes, when workflow code leads to it, because nothing of it
# comes back as a value that workflow code decides by: importing, reporting, debugging. A member names a module and
# everything below it.
MACHINERY = frozenset(
    {
        "importlib._bootstrap",
        "importlib._bootstrap_external",
        "zipimport",
        "pkgutil",
        "inspect",
        "linecache",
        "tokenize",
        "traceback",
        "warnings",
        "logging",
        "tracemalloc",
        "weakref",
        "zoneinfo",
        "encodings",
        # Debuggers.
        "pdb",
        "bdb",
        "_pytest.debugging",
        "IPython",
        "ipdb",
        "pudb",
        "debugpy",
        "pydevd",
        "_pydevd_bundle",
        "_pydev_bundle",
        "_pydevd_frame_eval",
        # Tracers of the interpreter.
        "coverage",
    }
)

# Libraries whose own calls are let through, for the same reason. What user code does when they call it back (they
# decorate functions) counts like any other user code.
OBSERVERS = frozenset(
    {
        # Looks for plugins when a model is first defined or used.
        "pydantic._internal",
        "pydantic.plugin",
        "ddtrace",
        "loguru",
        "newrelic",
        "opentelemetry",
        "prometheus_client",
        "rich",
        "sentry_sdk",
        "structlog",
    }
)

# Read by the static check alone.
STATIC_ONLY: tuple[Target, ...] = (
    Target(path="random:Random", rule=Rule(call="random.Random", advice=_SEEDED), harmless_with=0),
    *(
        Target(path=path, rule=Rule(call=path.removeprefix("builtins:").replace(":", "."), advice=advice))
        for advice, paths in {
            _NOW: "datetime:datetime.now datetime:datetime.utcnow datetime:datetime.today datetime:date.today",
            _RANDOM: "random:SystemRandom secrets:choice secrets:randbelow secrets:randbits secrets:token_bytes"
            " secrets:token_hex secrets:token_urlsafe",
            _UUID: "uuid:uuid1 uuid:uuid4 uuid:uuid6 uuid:uuid7",
            _ENVIRONMENT: "os:getenv socket:gethostname platform:node",
            _INPUT: "builtins:input",
            _FILES: "builtins:open os:listdir os:scandir os:walk os:mkdir os:makedirs os:remove os:unlink os:rename"
            " os:replace os:rmdir os:open os.path:exists os.path:isfile os.path:isdir os.path:getsize os.path:getmtime"
            " glob:glob glob:iglob shutil:copy shutil:copy2 shutil:copyfile shutil:copytree shutil:move shutil:rmtree"
            " tempfile:mkdtemp tempfile:mkstemp tempfile:NamedTemporaryFile tempfile:TemporaryDirectory"
            " tempfile:TemporaryFile sqlite3:connect",
            _PROCESSES: "os:system os:popen os:fork subprocess:run subprocess:Popen subprocess:call"
            " subprocess:check_call subprocess:check_output subprocess:getoutput subprocess:getstatusoutput"
            " multiprocessing:Process multiprocessing:Pool concurrent.futures:ProcessPoolExecutor",
            _THREADS: "threading:Thread threading:Timer concurrent.futures:ThreadPoolExecutor",
            _NETWORK: "socket:socket socket:create_connection socket:getaddrinfo socket:gethostbyname"
            " urllib.request:urlopen urllib.request:urlretrieve",
        }.items()
        for path in paths.split()
    ),
)

# The same for well-known libraries that read the clock or roll dice in C or through `datetime.now`: by the start of
# "module.qualified name" of the function.
STATIC_PREFIXES: dict[str, Rule] = {
    prefix: Rule(call=call, advice=advice)
    for prefix, call, advice in (
        ("pendulum.now", "pendulum.now", _NOW),
        ("pendulum.today", "pendulum.today", _NOW),
        ("arrow.api.now", "arrow.now", _NOW),
        ("arrow.api.utcnow", "arrow.utcnow", _NOW),
        ("django.utils.timezone.now", "django.utils.timezone.now", _NOW),
        ("django.utils.timezone.localdate", "django.utils.timezone.localdate", _NOW),
        ("numpy.random.", "numpy.random", _RANDOM),
        ("requests.api.", "requests", _NETWORK),
        ("httpx.", "httpx", _NETWORK),
    )
}
