"""The `perdure` command.

`main` declares the commands and turns every known error into one line and an exit status; `loading` imports
workflow files; `runs` starts and lists; `show` renders a history; `demo` is the demonstration.
"""
