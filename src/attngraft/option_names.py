"""What options are called elsewhere (timm, torchvision, ultralytics, fastai, Lightning, Hugging Face), and here."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import nearest

# name here -> names elsewhere; where a name has several meanings, the first that a verb knows is meant
_ELSEWHERE = {
    "out": "o output outdir out_dir output_dir output_folder save_dir save_path project run_dir rundir logdir log_dir "
    "default_root_dir experiment dest destination workdir work_dir",
    "run_dir": "out o output outdir out_dir output_dir save_dir project logdir log_dir default_root_dir work_dir",
    "lr": "learning_rate learningrate lr0 base_lr lr_max max_lr initial_lr",
    "lr_scale": "lr learning_rate",
    "head_lr_scale": "head_lr lr_head classifier_lr",
    "graft_lr_scale": "graft_lr attention_lr lr_grafts",
    "epochs": "n_epoch n_epochs num_epochs num_train_epochs max_epochs epoch total_epochs",
    "batch_size": "b bs batch batchsize train_batch_size per_device_train_batch_size eval_batch_size",
    "backbone": "m model arch architecture net network model_name backbone_name encoder",
    "attention": "attn attentions module attention_type attn_layer graft",
    "attentions": "attention",
    "seeds": "n_seeds num_seeds runs n_runs num_runs",
    "seed": "random_seed random_state manual_seed",
    "image_size": "size img_size imgsz img imagesize input_size resolution crop_size train_crop_size",
    "resize": "crop_mode resize_mode resize_method",
    "channels": "in_channels in_chans input_channels num_channels n_in ch",
    "device": "gpu gpus cuda accelerator cpu no_cuda devices",
    "workers": "j num_workers n_workers nw data_workers dataloader_num_workers",
    "precision": "amp fp16 bf16 half mixed_precision dtype use_amp",
    "optimizer": "opt optim opt_func optimiser",
    "weight_decay": "wd decay l2",
    "momentum": "mom sgd_momentum",
    "augment": "aa auto_augment aug augmentation augmentations item_tfms batch_tfms transforms data_augmentation",
    "label_smoothing": "smoothing label_smooth ls",
    "clip_norm": "clip_grad grad_clip gradient_clip_val max_grad_norm clip clip_grad_norm",
    "ema_decay": "ema model_ema model_ema_decay",
    "early_stopping": "patience early_stop early_stopping_patience",
    "select": "save_best load_best_model_at_end keep_best checkpoint_metric",
    "class_weights": "class_weight loss_weights weights_per_class balanced weight",
    "sampler": "oversample weighted_sampler",
    "loss": "criterion loss_func loss_fn loss_function",
    "val_fraction": "val_split valid_pct validation_split val_size valid_size val_frac",
    "test_fraction": "test_split test_size test_pct test_frac",
    "split_seed": "data_seed",
    "limit": "max_images max_samples n_images num_images subset limit_train_batches fraction sample",
    "group_by": "group groups group_column",
    "root": "data_dir data_path dataset_dir dataset_path data_root",
    "weights": "checkpoint ckpt initial_checkpoint pretrained_weights state_dict init_from load_from ckpt_path",
    "pretrained": "imagenet",
    "recipe": "config cfg schedule preset hyp args_file",
    "resume": "continue restart resume_from_checkpoint",
    "tensorboard": "tb log_tb use_tensorboard",
    "log": "logger wandb mlflow report_to track log_wandb use_wandb tracker",
    "set_": "set override overrides option opts opt",
    "as_json": "format",
    "top": "topk top_k k",
    "tolerance": "tol max_loss",
    "budget": "time max_time timeout time_budget",
    "trials": "n_trials num_trials iterations",
    "until": "target goal requirement",
    "repeats": "repeat n_repeats rounds",
    "folds": "cv n_folds num_folds n_splits kfold",
    "window": "window_size",
    "where": "filter query condition conditions only",
    "sort": "order order_by sort_by orderby",
    "every": "interval poll",
}
_VERBS = {
    "fit": "train training finetune fine-tune learn run",
    "predict": "infer inference classify test eval evaluate val validate label",
    "compare": "comparison ablate ablation ab",
    "bench": "benchmark time profile speed latency",
    "sites": "layers modules find-sites plan where graft",
    "attentions": "list attention zoo models ls",
    "iterate": "search tune hpo optimize sweep",
    "explain": "visualize visualise cam gradcam interpret saliency",
    "fold": "fuse reparam reparametrize merge",
    "report": "html page summary",
    "store": "registry versions deploy rollback",
    "adapt": "update",
    "watch": "monitor drift serve",
}


def meant(name: str, known: Iterable[str]) -> str | None:
    """The option that someone means who calls it as it is called elsewhere; None if there is none like that.

    >>> meant("--learning-rate", ["lr", "epochs"]), meant("imgsz", ["image_size"]), meant("colour", ["lr"])
    ('lr', 'image_size', None)
    """
    return _meant(name.lstrip("-").replace("-", "_").casefold(), known, _ELSEWHERE)


def verb_meant(name: str) -> str | None:
    """The verb that does what is called so elsewhere.

    >>> verb_meant("train")
    'fit'
    """
    return _meant(name.replace("_", "-").casefold(), _VERBS, _VERBS)


def nearest_option(name: str, known: Iterable[str]) -> str:
    """A clause that helps with an unknown option: by meaning, then by spelling.

    >>> nearest_option("learning_rate", ["lr", "label_smoothing"])
    "did you mean 'lr'?"
    """
    known = set(known)
    found = meant(name, known)
    return nearest(name, known) if found is None else f"did you mean '{found}'?"


def _meant(name: str, known: Iterable[str], elsewhere: dict[str, str]) -> str | None:
    known = set(known)
    if name in known:
        return name
    return next((here for here, others in elsewhere.items() if here in known and name in others.split()), None)
