"""Files go in by name and come back as artifacts; the snippet sees no others."""

from sandbox import Exec

SNIPPET = """
import csv, json, os, pathlib

print("sees:", sorted(os.listdir()), "and the currency", os.environ["CURRENCY"])
rows = list(csv.DictReader(open("sales.csv")))
total = sum(float(row["euros"]) for row in rows)

pathlib.Path("report").mkdir()
pathlib.Path("report/total.json").write_text(json.dumps({"currency": os.environ["CURRENCY"], "total": total}))
"""

with Exec() as exec:
    sales = "city,euros\nOslo,12.5\nPorto,30\n"
    result = exec.execute_code(SNIPPET, files={"sales.csv": sales}, env={"CURRENCY": "EUR"})
    print(result.stdout, end="")
    for artifact in result.artifacts:
        print(artifact.path, artifact.data.decode())

    # Each execution has a sandbox of its own: nothing is left of the one before.
    print("next one sees:", exec.execute_code("import os; os.listdir()").value)

    print("/etc/passwd:", exec.execute_code("open('/etc/passwd').read()").summary())
