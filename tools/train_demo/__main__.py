"""The training command: VAE, scenes, UNet and text encoders, then a diffusers folder, with sample sheets."""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tools.train_demo.data import Encoded, encode_scenes, shape_scene, thing_scene
from tools.train_demo.export import export
from tools.train_demo.sheet import draw_sheet
from tools.train_demo.trainer import Trainer
from tools.train_demo.unet import Networks
from tools.train_demo.vae import CONFIG, psnr, train_vae
from tools.train_demo.words import make_tokenizers

CHECKPOINT_EVERY = 250
SHEET_EVERY = 4000


def main() -> None:
    options = parse()
    torch.manual_seed(options.seed)
    options.work.mkdir(parents=True, exist_ok=True)
    with progress() as bar:
        vae = the_vae(options, bar)
        networks = the_networks(options, vae, bar)
    export(options.output, networks.modules(), vae, options.work)
    draw_sheet(options.output, options.work / "sheet.png")
    print(f"the model: {options.output}; a sheet of its pictures: {options.work / 'sheet.png'}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.train_demo", description="Train the demo model.")
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        help="folder of checkpoints and sheets; the same folder again resumes",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=0, help="of the training (default 0)")
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="(default: a GPU if there is one)",
    )
    parser.add_argument(
        "--start",
        type=Path,
        help="folder of a model whose VAE is kept and whose networks are trained further",
    )
    parser.add_argument("--vae-steps", type=int, default=8000, help="(default 8000)")
    parser.add_argument("--unet-steps", type=int, default=8000, help="(default 8000)")
    parser.add_argument("--scenes", type=int, default=8000, help="with coloured shapes (default 8000)")
    parser.add_argument("--things", type=int, default=6000, help="scenes with things (default 6000)")
    return parser.parse_args()


def progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[loss]}"))


def the_vae(options: argparse.Namespace, bar: Progress) -> AutoencoderKL:
    """Train the VAE, or take the one of ``--start`` or of an earlier run."""
    if options.start:
        vae = AutoencoderKL.from_pretrained(options.start / "vae", torch_dtype=torch.float32)
        return vae.eval().requires_grad_(False).to(options.device)
    path = options.work / "vae.pt"
    if not path.exists():
        task = bar.add_task("VAE", total=options.vae_steps, loss="")

        def report(step: int, loss: float) -> None:
            bar.update(task, completed=step, loss=f"loss {loss:.4f}")
            if step % CHECKPOINT_EVERY == 0:
                bar.console.print(f"VAE step {step}: loss {loss:.4f}")

        scenes = min(options.scenes, 3000)
        vae = train_vae(
            options.vae_steps,
            batch=16,
            seed=options.seed,
            scenes=scenes,
            device=options.device,
            report=report,
        ).cpu()
        torch.save({"state": vae.state_dict(), "scaling_factor": vae.config.scaling_factor}, path)
        bar.console.print(f"VAE round trip on unseen scenes: {psnr(vae, range(1, 129, 2)):.1f} dB")
    saved = torch.load(path, weights_only=True)
    vae = AutoencoderKL(**CONFIG, scaling_factor=saved["scaling_factor"])
    vae.load_state_dict(saved["state"])
    return vae.eval().requires_grad_(False).to(options.device)


def the_networks(options: argparse.Namespace, vae: AutoencoderKL, bar: Progress) -> Networks:
    """Train from where an earlier run stopped to the last step, and return the average of the weights."""
    trainer = the_trainer(options, vae, bar)
    path = options.work / "unet.pt"
    if path.exists():
        trainer.resume(torch.load(path, weights_only=True, map_location="cpu"))
    task = bar.add_task("UNet", total=options.unet_steps, completed=trainer.step, loss="")
    mean = None
    while trainer.step < options.unet_steps:
        loss = trainer.run_step()
        mean = loss if mean is None else mean + 0.01 * (loss - mean)
        bar.update(task, completed=trainer.step, loss=f"loss {mean:.4f}")
        if trainer.step % CHECKPOINT_EVERY == 0 or trainer.step == options.unet_steps:
            save_whole(trainer.state(), path)
            bar.console.print(f"step {trainer.step}: loss {mean:.4f}")
        if trainer.step % SHEET_EVERY == 0 and trainer.step < options.unet_steps:
            export(options.work / "model", trainer.average.modules(), vae, options.work)
            draw_sheet(options.work / "model", options.work / f"sheet-{trainer.step}.png")
    return trainer.average


def the_trainer(options: argparse.Namespace, vae: AutoencoderKL, bar: Progress) -> Trainer:
    """Make the trainer at step 0: of new networks, or of those of ``--start``."""
    tokenizers = make_tokenizers(options.work, options.start)
    torch.manual_seed(options.seed)
    if options.start:
        networks = Networks.of_model(options.start, tokenizers[0])
    else:
        networks = Networks.fresh(tokenizers[0])
    for module in networks.modules().values():
        module.to(options.device).train()
    scenes = (
        the_scenes(options, kind, count, vae, bar)
        for kind, count in (("shapes", options.scenes), ("things", options.things))
    )
    return Trainer(networks, *scenes, tokenizers, steps=options.unet_steps, batch=32, seed=options.seed)


def the_scenes(
    options: argparse.Namespace, kind: str, count: int, vae: AutoencoderKL, bar: Progress
) -> Encoded:
    """Encode the scenes of a kind, or read them from an earlier run."""
    path = options.work / f"{kind}.pt"
    if not path.exists():
        task = bar.add_task(f"encode {kind}", total=count, loss="")
        scene = {"shapes": shape_scene, "things": thing_scene}[kind]
        found = encode_scenes(vae, count, scene, lambda done: bar.update(task, completed=done))
        save_whole(found.to("cpu").state(), path)
    return Encoded(**torch.load(path, weights_only=True)).to(options.device)


def save_whole(state: object, path: Path) -> None:
    """Write through a temporary file, so that a killed run never leaves half a checkpoint."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


if __name__ == "__main__":
    main()
