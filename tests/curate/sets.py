# SPDX-License-Identifier: Apache-2.0
"""Small sets as the sources publish them, and a server that teaches."""

import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from jaxvl.curate import stub


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def picture(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (number % 256, number // 256, 7)).save(path)


def talk(question, reply):
    return [{"from": "human", "value": "<image>\n" + question}, {"from": "gpt", "value": reply}]


def cot(number):
    answer = f"[0.1, 0.{number % 8 + 2}, 0.9, 0.95]"
    parts = {"SUMMARY": "s", "CAPTION": "c", "REASONING": f"Box {number}.", "CONCLUSION": answer}
    return talk("Where is it?", "\n\n".join(f"<{k}>{v}</{k}>" for k, v in parts.items()))


_ROWS = {  # of the six forms that the sources are published in
    "clevr_math": lambda n, image: {
        "question": "How many?",
        "label": n % 10,
        "scene": f"{n} balls",
    },
    "synthesis": lambda n, image: {
        "question": "What is y?",
        "answer": f"$y={n}x$",
        "text_question": f"y is {n} times x. What is y?",
    },
    "arxivqa": lambda n, image: {
        "question": "Which curve?",
        "options": ["A) up", "B) down"],
        "label": "B",
        "rationale": f"It falls by {n}.",
    },
    "vizwiz": lambda n, image: {
        "question": f"What is this, {n}?",
        "answers": [{"answer": "a can"}, {"answer": "can"}, {"answer": "a can"}],
    },
    "geoqa170k": lambda n, image: {
        "conversations": talk("Find the angle.\nA. 1\nB. 2", "So 2. Answer:B")
    },
    "coco": lambda n, image: {"conversations": cot(n)},
}


def write_sets(folder, each):
    """`each` rows of six sources, as `--source` takes them."""
    paths = {}
    for offset, (name, make) in enumerate(_ROWS.items()):
        rows = []
        for n in range(each):
            image = f"{name}/{n}.png"
            picture(folder / name / image, n + 1000 * offset)
            rows.append({"image": image, **make(n, image)})
        paths[name] = str(jsonl(folder / name / "rows.jsonl", rows))
    return paths


def chat(text):
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})


@contextmanager
def teaching(answer=None):
    """A chat endpoint on this machine: (its URL, how often each request came). It answers as the
    stub does to the step that the request names as its model, or by `answer(body, count)`, which
    gives (status, data) or None to stall."""
    counts, lock, stalled = Counter(), threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            data = self.rfile.read(int(self.headers["content-length"]))
            with lock:
                counts[data] += 1
                count = counts[data]
            body = json.loads(data)
            if answer:
                found = answer(body, count)
            else:
                ((text, _),) = stub.answers(body["model"])([body])
                found = 200, chat(text)
            if found is None:
                stalled.wait(20)
                return
            status, reply = found
            reply = reply if isinstance(reply, bytes) else reply.encode()
            self.send_response(status)
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads, block_on_close = True, False

    with Server(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/v1/chat/completions", counts
        stalled.set()
        running.shutdown()
