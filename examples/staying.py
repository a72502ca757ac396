"""A program that stays: it is started once, and gets one task after the other.

    areal train --agent program agent_options.command='python examples/staying.py' agent_options.workers=4

Each task is a line of JSON on its standard input, with the address and the key of that episode; each answer
is a line of JSON on its standard output. It uses OpenAI's client, and knows nothing of areal.
"""

import json
import sys

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1", api_key="of each task")

for line in sys.stdin:
    given = json.loads(line)
    completion = client.with_options(
        base_url=given["base_url"], api_key=given["api_key"]
    ).chat.completions.create(model="any", messages=[{"role": "user", "content": given["task"]}])
    print(json.dumps({"answer": completion.choices[0].message.content}), flush=True)
