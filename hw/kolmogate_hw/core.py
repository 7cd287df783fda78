"""The core: sequencer, fetcher, decoder, array, drain and filler around one scratchpad."""

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ErrorCode
from kolmogate.protocol import PAGE_BYTES

from .compute import Compute
from .drain import Drain
from .filler import Filler
from .host_access import HostAccess
from .lanes import WeightDecoder
from .pair_fetcher import window_fetcher
from .ports import ACTIVITY, HostPort, ReadPort, word_address_bits
from .rings import Rings
from .scratchpad import Scratchpad, page_bits
from .sequencer import sequencer as sequencer_of

__all__ = ["Core"]


class Core(wiring.Component):
    """The accelerator behind a `HostPort`.

    An inference ends by itself, by an error, or at its cycle limit; whichever it is, the core is then ready
    for the next. ``cycles`` counts from the start command to the last output byte. ``activity`` says what
    each of them is spent on (`ACTIVITY`).
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({"host": In(HostPort()), "activity": Out(ACTIVITY)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, host = self.config, self.host
        lane_bits = config.columns.bit_length() - 1

        sequencer = sequencer_of(config)
        # An aborted inference leaves nothing behind: its units are held in reset until the reads they had
        # under way are answered. A new one clears what a program of the wrong length may have left. Both come
        # a cycle late, as they go everywhere.
        abort = Signal()
        aborted = Signal(ReadPort(config).latency)
        stop = Signal()
        clear = Signal()
        m.d.sync += [
            aborted.eq(Cat(abort, aborted)),
            stop.eq(abort | aborted.any()),
            clear.eq(abort | aborted.any() | sequencer.start),
        ]
        # The port that writes has the fetcher's visits to the first pair of rows: in dense layers, which have
        # one position, the other port is the weights' alone. Without a second port it has all. The host must
        # not wait for an inference that does not end: its accesses come first, or, where they would lengthen
        # the fetcher's path, behind visits that leave a cycle free between two runs. Programs come last, as
        # they always have more to ask, but for coded bytes, which are few, and which a fill must not hold up.
        # With two ports literals fill one alone: the next instruction must not wait for them.
        if config.scratchpad_ports == 1:
            clients = [["outputs", "activations_0", "host_write", "bytes", "descriptors", "coded"]]
            clients[0] += ["fill", "literals", "code"]
        else:
            clients = [
                ["bytes", "activations_1", "descriptors", "coded", "code", "literals"],
                ["outputs", "host_write", "activations_0", "fill"],
            ]
        writers = {"outputs", "host_write", "fill"}
        m.submodules.scratchpad = scratchpad = Scratchpad(
            config, clients, writers, {"activations_0", "activations_1"}, {"outputs", "fill"}
        )
        fetcher = window_fetcher(config)
        decoder = WeightDecoder(config)
        compute = Compute(config)
        drain = Drain(config)
        filler = Filler(config)
        m.submodules.rings = rings = Rings()
        m.submodules.host_access = host_access = HostAccess(config)
        m.submodules.sequencer = ResetInserter(stop)(sequencer)
        m.submodules.decoder = ResetInserter(stop)(decoder)
        for name, part in (("fetcher", fetcher), ("compute", compute), ("drain", drain), ("filler", filler)):
            m.submodules[name] = ResetInserter(clear)(part)

        wiring.connect(m, drain.write_port, scratchpad.outputs)
        for lane, port in enumerate(fetcher.ports):
            wiring.connect(m, port, getattr(scratchpad, f"activations_{lane}"))
        wiring.connect(m, decoder.code_port, scratchpad.code)
        wiring.connect(m, decoder.literal_port, scratchpad.literals)
        wiring.connect(m, sequencer.port, scratchpad.descriptors)
        wiring.connect(m, filler.port, scratchpad.fill)
        wiring.connect(m, host_access.write_port, scratchpad.host_write)
        wiring.connect(m, host_access.read_port, scratchpad.bytes)
        wiring.connect(m, drain.residual_port, host_access.operands)
        wiring.connect(m, decoder.coded_port, scratchpad.coded)
        wiring.connect(m, decoder.o, compute.weights)
        wiring.connect(m, decoder.records, drain.records)

        # What an inference begins with. In fast machines it is kept for a cycle, as the link makes it late
        # and it goes everywhere.
        beginning = data.StructLayout(
            {
                "start": 1,
                **dict.fromkeys(("descriptors", "code", "literals"), word_address_bits(config)),
                "last_page": page_bits(config),
                "streamed": 1,
            }
        )
        given, begun = Signal(beginning), Signal(beginning)
        m.d.comb += [
            given.start.eq(host.start & ~host.busy),
            given.descriptors.eq(host.descriptors[lane_bits:]),
            given.code.eq(host.code[lane_bits:]),
            given.literals.eq(host.literals[lane_bits:]),
            given.last_page.eq(host.last_page),
            given.streamed.eq(host.streamed),
        ]
        m.d["sync" if config.fast else "comb"] += begun.eq(given)
        with m.If(begun.start):
            m.d.sync += scratchpad.last_page.eq(begun.last_page)

        m.d.comb += [
            host_access.request.payload.eq(host.request.payload),
            host_access.request.valid.eq(host.request.valid),
            host.request.ready.eq(host_access.request.ready),
            host.valid.eq(host_access.valid),
            host.data.eq(host_access.data),
            sequencer.start.eq(begun.start),
            sequencer.base.eq(begun.descriptors),
            decoder.start.eq(begun.start),
            decoder.code.eq(begun.code),
            decoder.literals.eq(begun.literals),
            rings.start.eq(begun.start),
            rings.stream.eq(begun.streamed),
            rings.fed.eq(host.fed),
            Cat(rings.page, rings.ring).eq(host.request.payload.address[PAGE_BYTES.bit_length() - 1 :]),
            decoder.streamed.eq(rings.streamed),
            decoder.limits.eq(rings.limits),
            host.pages.eq(decoder.pages),
            sequencer.next_input.eq(fetcher.next_group),
            sequencer.input_base.eq(fetcher.group_base),
            sequencer.next_output.eq(drain.next_group),
            sequencer.output_base.eq(drain.group_base),
            sequencer.layer_done.eq(drain.done),
            sequencer.filling.eq(filler.busy),
            fetcher.start.eq(sequencer.start_layer),
            fetcher.held.eq(sequencer.held),
            compute.held.eq(sequencer.held),
            drain.start.eq(sequencer.start_drain),
            sequencer.last_tile.eq(drain.last_tile),
            sequencer.leaving.eq(drain.leaving),
            filler.start.eq(sequencer.start_fill),
            drain.start_residual.eq(sequencer.start_residual),
            drain.row.eq(sequencer.row),
            drain.residual.eq(sequencer.residual),
            fetcher.descriptor.eq(sequencer.descriptor),
            compute.descriptor.eq(sequencer.descriptor),
            drain.descriptor.eq(sequencer.drained),
            filler.descriptor.eq(sequencer.fill),
            *(compute.push[lane].eq(push) for lane, push in enumerate(fetcher.push)),
            *(compute.run[lane].eq(run) for lane, run in enumerate(fetcher.run)),
            fetcher.pop.eq(compute.pop),
            drain.captured.eq(compute.captured),
            drain.final_tile.eq(compute.final_tile),
            drain.last_row.eq(compute.last_row),
            compute.drained.eq(drain.drained),
            compute.shift.eq(drain.shift),
            drain.accumulators.eq(compute.accumulators),
        ]

        activity = self.activity
        stepped = Signal()
        m.d.comb += [
            activity.busy.eq(host.busy),
            activity.end_layer.eq(sequencer.end_layer),
            activity.compute.eq(compute.step),
            activity.decode.eq(compute.fed & ~compute.weighted),
            activity.drain.eq(compute.fed & compute.weighted & ~compute.step),
            activity.memory.eq(~compute.fed & fetcher.walking & stepped),
        ]
        with m.If(compute.step):
            m.d.sync += stepped.eq(1)
        with m.If(sequencer.start_layer):
            m.d.sync += stepped.eq(0)

        # Its sign says that no cycle is left, without a comparison.
        cycles_left = Signal(signed(33))
        m.d.sync += cycles_left.eq(Mux(host.busy | host.start, cycles_left - 1, host.limit))
        with m.If(host.busy):
            m.d.sync += host.cycles.eq(host.cycles + 1)
            with m.If(sequencer.done):
                m.d.sync += host.busy.eq(0)
            for condition, code in (
                (cycles_left[-1], ErrorCode.TIMEOUT),
                (decoder.error, ErrorCode.BAD_PROGRAM),
                (sequencer.bad_descriptor | scratchpad.refused, ErrorCode.BAD_DESCRIPTOR),
            ):
                with m.If(condition):
                    m.d.comb += abort.eq(1)
                    m.d.sync += [host.busy.eq(0), host.error.eq(code)]
        with m.Elif(host.start):
            m.d.sync += [
                host.busy.eq(1),
                host.error.eq(ErrorCode.NONE),
                host.cycles.eq(0),
            ]
        with m.If(host.reset):
            m.d.comb += abort.eq(1)
            m.d.sync += [host.busy.eq(0), host.error.eq(ErrorCode.NONE), host.cycles.eq(0)]
        return m
