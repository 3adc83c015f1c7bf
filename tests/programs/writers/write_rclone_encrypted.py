"""rclone: an encrypted configuration. It is encrypted only in a dialog, each line of which answers a prompt."""

import os
import subprocess

from endpoint import DIRECTORY

config = DIRECTORY / "rclone.conf"
subprocess.run(["rclone", "--config", config, "config", "create", "here", "local"], capture_output=True, check=True)
dialog = subprocess.Popen(
    ["rclone", "--config", config, "config"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
)
for prompt, line in [
    (b"q> ", b"s\n"),
    (b"a/q> ", b"a\n"),
    (b"\npassword:", b"password\n"),
    (b"\npassword:", b"password\n"),
    (b"q> ", b"q\n"),
    (b"q> ", b"q\n"),
]:
    said = b""
    while not said.endswith(prompt):
        more = os.read(dialog.stdout.fileno(), 1)
        if not more:
            raise SystemExit(f"rclone ended before {prompt}: {said}")
        said += more
    dialog.stdin.write(line)
    dialog.stdin.flush()
dialog.stdout.read()
raise SystemExit(dialog.wait())
