"""ROS 1 bags of events, written with rosbags."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

EVENT = "uint16 x\nuint16 y\ntime ts\nbool polarity\n"
ARRAY = "Header header\nuint32 height # rows\nuint32 width\nEvent[] events\n"


Row = tuple[int, int, int, int, bool]  # seconds, nanoseconds, x, y, polarity


def write_bag(
    path: Path,
    topics: Mapping[str, Sequence[Row]],
    package: str = "dvs_msgs",
    compression: Any = None,
    each: int = 7,
) -> None:
    """Write the events of topics with rosbags, ``each`` in a message."""
    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg(EVENT, f"{package}/msg/Event"))
    array = ARRAY.replace("Event[]", f"{package}/Event[]").replace("Header", "std_msgs/Header", 1)
    store.register(get_types_from_msg(array, f"{package}/msg/EventArray"))
    types = store.types
    time = types["builtin_interfaces/msg/Time"]
    writer = Writer(path)
    if compression:
        writer.set_compression(compression)
    with writer as bag:
        for topic, rows in topics.items():
            kind = f"{package}/msg/EventArray"
            connection = bag.add_connection(topic, kind, typestore=store)
            for start in range(0, len(rows), each):
                part = rows[start : start + each]
                events = [
                    types[f"{package}/msg/Event"](x=x, y=y, ts=time(sec=s, nanosec=ns), polarity=p)
                    for s, ns, x, y, p in part
                ]
                header = types["std_msgs/msg/Header"](
                    seq=0, stamp=time(sec=part[0][0], nanosec=part[0][1]), frame_id="camera"
                )
                message = types[kind](header=header, height=180, width=240, events=events)
                stamp = part[0][0] * 10**9 + part[0][1] // 1000 * 1000
                bag.write(connection, stamp, store.serialize_ros1(message, kind))
